/* Reads samples as raw floats from the standard input and prints the class of each. C11.
 *
//+file
 *   cc -O2 -o name_example name_example.c name.o && ./name_example name.weights < samples.f32
//-file
//+embedded
 *   cc -O2 -o name_example name_example.c name.o && ./name_example < samples.f32
//-embedded
 */
#include <math.h>
#include <stdio.h>

#include "name.h"

/* No allocation: everything has its place before the program starts. */
static _Alignas(NAME_ALIGN) unsigned char context[NAME_CONTEXT_BYTES];
static _Alignas(NAME_ALIGN) unsigned char memory[NAME_MEMORY_BYTES];
//+file
static _Alignas(NAME_ALIGN) unsigned char weights[NAME_WEIGHTS_BYTES + 1];
//-file
static float input[NAME_INPUT], logits[NAME_CLASSES];

int main(int argc, char **argv) {
    if (!NAME_RUNS_HERE) {
        fprintf(stderr, "%s: this machine lacks instructions that the code was made for; build with --target x86-64\n", argv[0]);
        return 1;
    }
//+file
    FILE *file = argc == 2 ? fopen(argv[1], "rb") : NULL;
    if (!file || fread(weights, 1, sizeof weights, file) != NAME_WEIGHTS_BYTES) {
        fprintf(stderr, "usage: %s WEIGHTS < SAMPLES; WEIGHTS has %llu bytes\n", argv[0], (unsigned long long)NAME_WEIGHTS_BYTES);
        return 2;
    }
    fclose(file);
    if (name_init(context, memory, weights)) {
        fprintf(stderr, "%s: the weights of another program\n", argv[1]);
        return 1;
    }
//-file
//+embedded
    if (argc != 1 || name_init(context, memory, name_weights)) {
        fprintf(stderr, "usage: %s < SAMPLES\n", argv[0]);
        return 2;
    }
//-embedded
    size_t read;
    while ((read = fread(input, 1, sizeof input, stdin)) == sizeof input) {
        for (size_t i = 0; i < NAME_INPUT; i++) {
            if (!isfinite(input[i])) {
                fprintf(stderr, "value %zu of a sample is not finite\n", i);
                return 1;
            }
        }
        if (name_run(context, input, 1, logits)) return 1;
        int best = 0;
        for (int i = 1; i < NAME_CLASSES; i++) {
            if (logits[i] > logits[best]) best = i;
        }
        printf("%d\n", best);
    }
    if (read) {
        fprintf(stderr, "the last sample is cut short: %zu of %zu bytes\n", read, sizeof input);
        return 1;
    }
    return 0;
}
