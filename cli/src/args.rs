//! The arguments of all commands.

use clap::{Args, Parser, Subcommand, ValueEnum};
use std::ops::Range;
use std::path::PathBuf;

/// Compiler for spiking neural networks: checks that inference multiplies nothing, trains, runs.
#[derive(Debug, Parser)]
#[command(name = "snnc", version, about, arg_required_else_help = true)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
    /// Threads to use; results do not depend on it.
    #[arg(long, global = true, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub(crate) threads: Option<u16>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Check files: diagnostics, and for every model whether inference is multiplication-free.
    #[command(
        after_help = "Examples:\n  snnc check zoo/\n  snnc check my.snn --fix\n  snnc check mixer/mlp_spe#MlpSpeB --set expand=4\n  \
                            snnc check models/ --format sarif --baseline snnc-baseline.json > findings.sarif\n\n\
                            A file `snnc.toml` in the model's folder, or one above it, says what holds there; see docs/ci.md.\n\
                            Exit code: 0 clean, 1 findings, 2 it could not be told."
    )]
    Check(CheckArgs),
    /// Format files in place.
    #[command(after_help = "Examples:\n  snnc fmt my.snn\n  snnc fmt --check zoo/")]
    Fmt(FmtArgs),
    /// Explain a diagnostic code.
    #[command(after_help = "Examples:\n  snnc explain check::real_operand\n  snnc explain")]
    Explain(ExplainArgs),
    /// Write a model to start from.
    #[command(after_help = "Example:\n  snnc new my_model")]
    New(NewArgs),
    /// Print what a stage of the compiler makes of a model.
    #[command(
        after_help = "Examples:\n  snnc dump quickstart/digits --stage graph\n  snnc dump quickstart/digits --stage program --mode train\n  snnc dump quickstart/digits --stage schedule --weights runs/digits"
    )]
    Dump(DumpArgs),
    /// Layers, shapes, parameters, operations and energy of a model.
    #[command(after_help = "Examples:\n  snnc summary mixer/mlp_spe#MlpSpeT\n  snnc summary my.snn --rate 0.1 --format json")]
    Summary(SummaryArgs),
    /// How two versions of a model differ: parameters, operations, verdict, energy.
    #[command(
        after_help = "Examples:\n  snnc diff old/my.snn my.snn\n  snnc diff mixer/mlp_spe#MlpSpeT mixer/mlp_spe#MlpSpeS --format markdown\n\n\
                            Additions and energy are taken at one firing rate for all layers (--rate). Exit code: 0 whether they differ or not."
    )]
    Diff(DiffArgs),
    /// Operations and energy of every layer, from firing rates measured on data or given.
    #[command(
        after_help = "Examples:\n  snnc energy quickstart/digits --weights runs/digits\n  snnc energy quickstart/digits --weights runs/digits --plot energy.svg\n  \
                            snnc energy spikingformer/imagenet_published#Spikingformer8x512Published --rates rates.toml\n\n\
                            A file of rates has a table `rates` from layers to spikes per place and time step; the report with --format json is one, too.\n\n\
                            The first figure charges layers only: operations of the encoder as MACs, all others as ACs times the rate of what they read.\n\
                            The second, `with all`, adds for every operation a 32-bit word read (its weight), for every neuron and time step two\n\
                            additions, a word read, a word written and a bit written, and a MAC for every other multiplication."
    )]
    Energy(EnergyArgs),
    /// Train a model with its recipe.
    #[command(after_help = "Examples:\n  snnc train quickstart/digits\n  snnc train quickstart/digits -o runs/a --epochs 3 --seed 7\n  \
                            snnc train quickstart/digits -o runs/a --resume\n\nCtrl-C finishes the step and saves; --resume goes on bit for bit.")]
    Train(TrainArgs),
    /// Accuracy of trained weights, as written and folded.
    #[command(after_help = "Example:\n  snnc eval quickstart/digits --weights runs/digits")]
    Eval(EvalArgs),
    /// Classify pictures with the folded network.
    #[command(after_help = "Examples:\n  snnc predict quickstart/digits --weights runs/digits eight.png\n  \
                            snnc predict quickstart/digits --weights runs/digits --sample 0..10 --write samples.f32")]
    Predict(PredictArgs),
    /// Run the folded network on samples from a file or a pipe, all time steps at once or one after another.
    #[command(after_help = "Examples:\n  snnc predict quickstart/digits --weights runs/digits --sample 0..10 --write samples.f32\n  \
                            snnc run quickstart/digits --weights runs/digits samples.f32\n  \
                            camera | snnc run net.snn --weights runs/net --stream --until 2.5 --format json\n\n\
                            The input holds samples, one after another, as little-endian f32 in the order of the declared axes: a picture, which stands\n\
                            for all time steps, or a frame for each of them. --stream computes each frame as it arrives, and says where\n\
                            the decision stands; --format json has the logits of the steps so far, which are parts of the whole: after the\n\
                            last step they are the network's.")]
    Run(RunArgs),
    /// One step on a batch: logits, loss, spikes, gradients, running statistics, for comparing with another framework.
    #[command(after_help = "Example:\n  snnc trace mixer/mlp_spe_published --set dim=12 --layout mixer-snn --weights W.safetensors \
                            --batch B.safetensors --mode train --backend cpu -o OUT.safetensors\n\n\
                            The batch holds `input` [B, C, H, W] (or [B, T, C, H, W] for frames) and `labels` [B]. The output holds `logits`\n\
                            [B, K], `loss` [1] (mean cross entropy), `spikes.<neuron>` [T], and in train mode `grad.<parameter>` and\n`running.<buffer>`.")]
    Trace(TraceArgs),
    /// Translate a checkpoint between our names and those of a published system.
    #[command(
        after_help = "Examples:\n  snnc convert --layout spikingformer spikingformer/cifar_published model_best.pth.tar ours.safetensors\n  \
                            snnc convert --layout dsr dsr/vgg11_dvs_published runs/dvs theirs.safetensors\n\n\
                            The names in IN decide the way. IN is a run's folder, a safetensors file, or a PyTorch checkpoint, of which\n\
                            nothing is executed; OUT is a safetensors file."
    )]
    Convert(ConvertArgs),
    /// Write a network for other runtimes.
    #[command(subcommand)]
    Export(ExportArgs),
    /// The certificate: every operation, how it is done, where every constant factor went, every instruction.
    #[command(
        after_help = "Examples:\n  snnc certify mixer/mlp_spe#MlpSpeT\n  snnc certify quickstart/digits --weights runs/digits --data digits -o digits.json\n  snnc certify mixer/mlp_spe#MlpSpeB -o mlp_spe_b.html\n  \
                            snnc certify --verify digits.json --weights runs/digits\n\n\
                            --verify derives the certificate again from source and weights and says what differs.\n\
                            Exit code: 0 holds, 1 violated or something differs, 2 it could not be told."
    )]
    Certify(CertifyArgs),
    /// Compile ahead of time: an object file and a C header, for programs that know nothing of snnc.
    #[command(after_help = "Examples:\n  snnc build quickstart/digits --weights runs/digits -o build\n  \
                            snnc build quickstart/digits --weights runs/digits -o build --target aarch64 --embed\n\n\
                            Writes NAME.o, NAME.h, NAME.weights (unless --embed) and NAME_example.c. The code allocates nothing and calls nothing.\n\
                            A network that is violated is not built. Exit code: 0 built, 1 violated, 2 it could not be built.")]
    Build(BuildArgs),
    /// Look at every instruction in an object file that `snnc build` wrote.
    #[command(after_help = "Examples:\n  snnc census build/digits.o\n  snnc census build/digits.o --certificate digits.json\n\n\
                            Every instruction that can run is looked up in a whitelist. Outside the functions that the file gives to the encoder (or\n\
                            to an admitted residue) none may multiply, divide, or take a root. The file itself says which functions those are: --certificate compares them, and the\n\
                            hash of the code, with a certificate of the same target and batch. Exit code: 0 clean, 1 findings, 2 it could not be told.")]
    Census(CensusArgs),
    /// How long things take on this machine, beside what it could reach.
    #[command(subcommand)]
    Bench(BenchArgs),
    /// List the built-in models with their published facts.
    #[command(after_help = "Examples:\n  snnc zoo\n  snnc zoo --format json")]
    Zoo(ZooArgs),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For people.
    Human,
    /// For programs.
    Json,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum CheckFormat {
    /// For people.
    Human,
    /// For programs.
    Json,
    /// Annotations of GitHub Actions.
    Github,
    /// SARIF 2.1.0, for code scanning services.
    Sarif,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum ZooFormat {
    /// For people.
    Human,
    /// For programs.
    Json,
    /// The table of the README.
    Markdown,
}

#[derive(Debug, Args)]
pub(crate) struct ModelArgs {
    /// A `.snn` file or a model of the zoo, with `#Variant` where it holds several.
    pub(crate) model: String,
    #[command(flatten)]
    pub(crate) settings: SettingArgs,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct SettingArgs {
    /// Set a parameter, e.g. `--set dim=96` or `--set depths=[2,2]`.
    #[arg(long = "set", value_name = "NAME=VALUE")]
    pub(crate) set: Vec<String>,
    /// Time steps.
    #[arg(long, value_name = "T")]
    pub(crate) time: Option<usize>,
}

/// How to report.
#[derive(Debug, Args)]
pub(crate) struct ReportArgs {
    /// How to report.
    #[arg(long, value_enum, default_value = "human")]
    pub(crate) format: Format,
}

/// Which weights.
#[derive(Debug, Args)]
pub(crate) struct WeightsArgs {
    /// A safetensors file, or the folder of a training run.
    #[arg(long, short)]
    pub(crate) weights: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct CheckArgs {
    /// Files, folders, or models of the zoo.
    #[arg(required = true)]
    pub(crate) paths: Vec<String>,
    #[command(flatten)]
    pub(crate) settings: SettingArgs,
    /// How to report.
    #[arg(long, value_enum, default_value = "human")]
    pub(crate) format: CheckFormat,
    /// Fail on this rule, also where the source admits it: a code, its last part, or `warnings`.
    #[arg(long, value_name = "RULE")]
    pub(crate) deny: Vec<String>,
    /// Do not fail on this rule.
    #[arg(long, value_name = "RULE")]
    pub(crate) allow: Vec<String>,
    /// Accept the findings in this file, and fail on new ones.
    #[arg(long, value_name = "FILE")]
    pub(crate) baseline: Option<PathBuf>,
    /// Write the findings of now as the baseline.
    #[arg(long, value_name = "FILE", conflicts_with = "baseline")]
    pub(crate) write_baseline: Option<PathBuf>,
    /// Apply the remedies of findings that have one, and format the files.
    #[arg(long)]
    pub(crate) fix: bool,
    /// With --fix: only fixes that leave what the network computes as it is (`fold(time)`, `fold(compose)`).
    #[arg(long, requires = "fix")]
    pub(crate) exact: bool,
}

#[derive(Debug, Args)]
pub(crate) struct FmtArgs {
    /// Files or folders.
    #[arg(required = true)]
    pub(crate) paths: Vec<PathBuf>,
    /// Change nothing; exit with 1 if something would change.
    #[arg(long)]
    pub(crate) check: bool,
}

#[derive(Debug, Args)]
pub(crate) struct ExplainArgs {
    /// The code, with or without `snnc::`; without it all codes are listed.
    pub(crate) code: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct NewArgs {
    /// Name of the file, without ending.
    pub(crate) name: PathBuf,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Stage {
    /// The tree.
    Ast,
    /// The typed graph.
    Graph,
    /// What becomes of every multiplication.
    Plan,
    /// The folded graph.
    Folded,
    /// Tensor primitives.
    Flow,
    /// Buffers, groups and kernels.
    Program,
    /// How the loops of an inference are cut on this machine, and what each is expected to take.
    Schedule,
    /// The launches of a training step on CUDA, with what each moves.
    Fused,
    /// The kernels of a training step as CUDA C.
    Cuda,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Mode {
    /// Folded inference of all time steps.
    Infer,
    /// Folded inference of any number of time steps a call.
    Stream,
    /// A training step.
    Train,
}

#[derive(Debug, Args)]
pub(crate) struct DumpArgs {
    #[command(flatten)]
    pub(crate) model: ModelArgs,
    /// Which stage.
    #[arg(long, value_enum)]
    pub(crate) stage: Stage,
    /// For flow and program: of what [default: infer]
    #[arg(long, value_enum)]
    pub(crate) mode: Option<Mode>,
    /// Of a training step: how it keeps what varies over samples [default: f32]
    #[arg(long, value_enum)]
    pub(crate) precision: Option<Precision>,
    /// For fused: samples of a step [default: 64]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=65_536))]
    pub(crate) batch: Option<u32>,
    /// For fused: what every launch moves and multiplies, by part of the model and in all.
    #[arg(long)]
    pub(crate) cost: bool,
    /// For schedule: weights, to run it with: firing rates and times are measured on a made-up picture.
    #[arg(long, short, value_name = "FILE", conflicts_with = "rate")]
    pub(crate) weights: Option<PathBuf>,
    /// For schedule, without weights: the part of what layers read that fires [default: 0.15]
    #[arg(long, value_parser = rate, allow_negative_numbers = true)]
    pub(crate) rate: Option<f64>,
}

#[derive(Debug, Args)]
pub(crate) struct SummaryArgs {
    #[command(flatten)]
    pub(crate) model: ModelArgs,
    /// Firing rate that additions are estimated with.
    #[arg(long, default_value_t = 0.15, value_parser = rate, allow_negative_numbers = true)]
    pub(crate) rate: f64,
    #[command(flatten)]
    pub(crate) report: ReportArgs,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum DiffFormat {
    /// For people.
    Human,
    /// For programs.
    Json,
    /// A comment for a pull request.
    Markdown,
}

#[derive(Debug, Args)]
pub(crate) struct DiffArgs {
    /// The older model: a `.snn` file or a model of the zoo, with `#Variant` where it holds several.
    pub(crate) a: String,
    /// The newer one.
    pub(crate) b: String,
    #[command(flatten)]
    pub(crate) settings: SettingArgs,
    /// Firing rate that additions are estimated with.
    #[arg(long, default_value_t = 0.15, value_parser = rate, allow_negative_numbers = true)]
    pub(crate) rate: f64,
    /// How to report.
    #[arg(long, value_enum, default_value = "human")]
    pub(crate) format: DiffFormat,
}

#[derive(Debug, Args)]
pub(crate) struct EnergyArgs {
    #[command(flatten)]
    pub(crate) model: ModelArgs,
    /// A safetensors file, or the folder of a training run: rates are measured.
    #[arg(long, short)]
    pub(crate) weights: Option<PathBuf>,
    /// Data set to measure on; the recipe's by default.
    #[arg(long)]
    pub(crate) data: Option<String>,
    /// Pictures of the test set to measure on; all by default.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) samples: Option<u32>,
    /// A file of rates, TOML or JSON; nothing is measured.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["weights", "data"])]
    pub(crate) rates: Option<PathBuf>,
    /// Picojoule of a multiply-accumulate.
    #[arg(long, default_value_t = 4.6, value_parser = cost)]
    pub(crate) mac_pj: f64,
    /// Picojoule of an accumulate.
    #[arg(long, default_value_t = 0.9, value_parser = cost)]
    pub(crate) ac_pj: f64,
    /// Picojoule of a word of 32 bits from or to memory, in the second figure.
    #[arg(long, default_value_t = 10.0, value_parser = cost)]
    pub(crate) word_pj: f64,
    /// Draw rate and energy by layer, as .svg or .html.
    #[arg(long, value_name = "OUT")]
    pub(crate) plot: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) report: ReportArgs,
}

fn cost(text: &str) -> Result<f64, String> {
    text.parse().ok().filter(|c: &f64| (0.0..1e9).contains(c)).ok_or_else(|| "a number of picojoule, 0 or more".into())
}

fn rate(text: &str) -> Result<f64, String> {
    text.parse().ok().filter(|r| (0.0..=1.0).contains(r)).ok_or_else(|| "a rate lies between 0 and 1".into())
}

#[derive(Debug, Args)]
pub(crate) struct TrainArgs {
    #[command(flatten)]
    pub(crate) model: ModelArgs,
    /// Data set; the recipe's by default.
    #[arg(long)]
    pub(crate) data: Option<String>,
    /// Recipe; the model's first by default.
    #[arg(long)]
    pub(crate) recipe: Option<String>,
    /// Folder for checkpoints and the trained model; by default a new one under `runs`.
    #[arg(short, long, value_name = "FOLDER")]
    pub(crate) out: Option<PathBuf>,
    /// Go on from the newest checkpoint in the folder.
    #[arg(long, requires = "out")]
    pub(crate) resume: bool,
    /// Where it is trained.
    #[arg(long, value_enum, default_value = "auto")]
    pub(crate) backend: TrainBackend,
    /// How activations and their gradients are kept, and multiplied; parameters, statistics and sums are f32.
    #[arg(long, value_enum, default_value = "f32")]
    pub(crate) precision: Precision,
    /// Epochs; by default the recipe's, with `--resume` the run's.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) epochs: Option<u32>,
    /// Seed; by default the recipe's, with `--resume` the run's.
    #[arg(long)]
    pub(crate) seed: Option<u64>,
    #[command(flatten)]
    pub(crate) report: ReportArgs,
}

#[derive(Debug, Args)]
pub(crate) struct EvalArgs {
    #[command(flatten)]
    pub(crate) model: ModelArgs,
    #[command(flatten)]
    pub(crate) trained: WeightsArgs,
    /// Data set; the recipe's by default.
    #[arg(long)]
    pub(crate) data: Option<String>,
    #[command(flatten)]
    pub(crate) report: ReportArgs,
}

#[derive(Debug, Args)]
pub(crate) struct PredictArgs {
    #[command(flatten)]
    pub(crate) model: ModelArgs,
    #[command(flatten)]
    pub(crate) trained: WeightsArgs,
    /// PNG or JPEG files; brought to the model's size and channels, 0 to 1.
    #[arg(required_unless_present = "sample")]
    pub(crate) images: Vec<PathBuf>,
    /// Take this picture of the test set of the model's data, too, or all from one up to another: `3`, `0..100`.
    #[arg(long, value_name = "INDEX|A..B", value_parser = indices)]
    pub(crate) sample: Vec<Range<usize>>,
    /// Write the inputs as raw floats, as the example of `snnc build` reads them.
    #[arg(long, value_name = "FILE")]
    pub(crate) write: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) report: ReportArgs,
}

#[derive(Debug, Args)]
pub(crate) struct RunArgs {
    #[command(flatten)]
    pub(crate) model: ModelArgs,
    #[command(flatten)]
    pub(crate) trained: WeightsArgs,
    /// Samples as raw floats, or a file of events, which is one sample: `.aedat` (2.0 as in CIFAR10-DVS, 3.1 as in DVS128 Gesture) or `.npz`
    /// (`frames`, or `x`, `y`, `p`, `t`); from the standard input without it, or with `-`.
    pub(crate) input: Option<PathBuf>,
    /// One time step at a time; says where the decision stands after each.
    #[arg(long)]
    pub(crate) stream: bool,
    /// Stop a sample as soon as its best class is ahead of the next by so much, in logits.
    #[arg(long, value_name = "LEAD", value_parser = lead, allow_negative_numbers = true)]
    pub(crate) until: Option<f32>,
    #[command(flatten)]
    pub(crate) report: ReportArgs,
}

fn lead(text: &str) -> Result<f32, String> {
    let lead = text.parse::<f32>().map_err(|_| format!("`{text}` is no number"))?;
    if lead.is_finite() && lead >= 0.0 { Ok(lead) } else { Err("a lead is a finite number, 0 or more".into()) }
}

fn indices(text: &str) -> Result<Range<usize>, String> {
    let number = |text: &str| text.parse::<usize>().map_err(|_| format!("`{text}` is no index"));
    match text.split_once("..") {
        Some((from, to)) => Some(number(from)?..number(to)?).filter(|r| !r.is_empty()).ok_or_else(|| "there is nothing in it".into()),
        None => number(text).map(|i| i..i.saturating_add(1)),
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum TraceMode {
    /// Running statistics.
    Eval,
    /// Batch statistics, and gradients.
    Train,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum TraceBackend {
    /// The oracle, operator by operator in f64.
    Reference,
    /// Generated machine code in f32.
    Cpu,
    /// Generated kernels in f32, on the first NVIDIA GPU.
    Cuda,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum TrainBackend {
    /// The first NVIDIA GPU if there is one, else the CPU.
    Auto,
    /// Generated machine code.
    Cpu,
    /// Generated kernels on the first NVIDIA GPU (of those in CUDA_VISIBLE_DEVICES).
    Cuda,
}

#[derive(Debug, Subcommand)]
pub(crate) enum BenchArgs {
    /// A training step: median time, images a second, memory; on a GPU beside the time that its arithmetic, and its memory traffic,
    /// would take at the rates that the device reaches.
    #[command(after_help = "Examples:\n  snnc bench step quickstart/digits --batch 16\n  \
                            snnc bench step mixer/mlp_spe#MlpSpeT --batch 64 --precision f16 --backend cuda --by kernel\n\n\
                            The pictures are made up; the recipe gives the optimizer. On a GPU times are those of CUDA events.")]
    Step(BenchStepArgs),
    /// An inference of the folded network: latency, images and additions a second, beside the additions that this machine can do.
    #[command(after_help = "Examples:\n  snnc bench infer quickstart/digits\n  \
                            snnc bench infer mixer/mlp_spe#MlpSpeT --rate 0.07\n  \
                            snnc bench infer mixer/mlp_spe#MlpSpeT --weights w.safetensors --format json\n\n\
                            Without weights they are random, and their biases all shifted alike, so that the mean firing rate comes near what --rate says. \
                            Pictures are made up. An addition is a spike and an output that reads it: loops that add up several inputs at once get done \
                            more of them than registers take.")]
    Infer(BenchInferArgs),
}

#[derive(Debug, Args)]
pub(crate) struct BenchInferArgs {
    #[command(flatten)]
    pub(crate) model: ModelArgs,
    /// Trained weights: a safetensors file, or the folder of a training run.
    #[arg(long, short, conflicts_with = "rate")]
    pub(crate) weights: Option<PathBuf>,
    /// Without weights: the part of all neurons that fires in a time step, as near as one shift of all biases comes to it.
    #[arg(long, default_value_t = 0.15, value_parser = rate, allow_negative_numbers = true)]
    pub(crate) rate: f64,
    /// Where to write the weights that were run (safetensors).
    #[arg(long, value_name = "FILE", conflicts_with = "weights")]
    pub(crate) keep: Option<PathBuf>,
    /// Replace that file if it is there.
    #[arg(long)]
    pub(crate) force: bool,
    /// Samples at once.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=4096))]
    pub(crate) batch: u32,
    /// Inferences that are timed, after three that are not.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub(crate) repeats: u32,
    #[command(flatten)]
    pub(crate) report: ReportArgs,
}

#[derive(Debug, Args)]
pub(crate) struct BenchStepArgs {
    #[command(flatten)]
    pub(crate) model: ModelArgs,
    /// Samples of a step.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=65_536))]
    pub(crate) batch: u32,
    /// How activations and their gradients are kept.
    #[arg(long, value_enum, default_value = "f32")]
    pub(crate) precision: Precision,
    /// Where it runs.
    #[arg(long, value_enum, default_value = "auto")]
    pub(crate) backend: TrainBackend,
    /// Steps that are timed, after two that are not.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub(crate) repeats: u32,
    /// What the time is broken down by; on a GPU.
    #[arg(long, value_enum)]
    pub(crate) by: Option<By>,
    #[command(flatten)]
    pub(crate) report: ReportArgs,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum By {
    /// Launches, each timed by itself.
    Kernel,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Precision {
    /// 32 bits, in products too.
    F32,
    /// 32 bits, of which products take 19; on a GPU.
    Tf32,
    /// 16 bits, the loss scaled so that small gradients do not vanish; on a GPU.
    F16,
    /// 16 bits with the range of f32; on a GPU.
    Bf16,
}

impl Precision {
    /// As the compiler has it.
    pub(crate) fn format(self) -> snnc_compiler::kernel::Format {
        match self {
            Precision::F32 | Precision::Tf32 => snnc_compiler::kernel::Format::F32,
            Precision::F16 => snnc_compiler::kernel::Format::F16,
            Precision::Bf16 => snnc_compiler::kernel::Format::Bf16,
        }
    }

    /// For people.
    pub(crate) fn name(self) -> &'static str {
        if self == Precision::Tf32 { "tf32" } else { self.format().name() }
    }
}

#[derive(Debug, Args)]
pub(crate) struct ConvertArgs {
    /// The published system: mixer-snn, spikingformer, gac, dsr.
    #[arg(long, value_name = "NAME")]
    pub(crate) layout: String,
    #[command(flatten)]
    pub(crate) model: ModelArgs,
    /// The checkpoint.
    #[arg(value_name = "IN")]
    pub(crate) input: PathBuf,
    /// Where to write.
    #[arg(value_name = "OUT")]
    pub(crate) out: PathBuf,
    /// Replace OUT if it exists.
    #[arg(long)]
    pub(crate) force: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ExportArgs {
    /// As an ONNX model of standard operators (operator set 18).
    #[command(after_help = "Examples:\n  snnc export onnx quickstart/digits --weights runs/digits -o digits.onnx\n  \
                            snnc export onnx mixer/mlp_spe#MlpSpeT --weights w.safetensors --batch 1 --steps scan -o t.onnx\n\n\
                            The network is written as it stands, not folded. Its input is `input` [B, C, H, W] (or [B, T, C, H, W] for frames), its\n\
                            result `logits` [B, K]. Exit code: 0 written, 2 not.")]
    Onnx(OnnxArgs),
}

/// How the recurrence of a neuron is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum OnnxSteps {
    /// Every time step by itself.
    Unrolled,
    /// As ONNX's `Scan`.
    Scan,
}

#[derive(Debug, Args)]
pub(crate) struct OnnxArgs {
    #[command(flatten)]
    pub(crate) model: ModelArgs,
    #[command(flatten)]
    pub(crate) trained: WeightsArgs,
    /// Samples at once; without it any number.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=65_536))]
    pub(crate) batch: Option<u32>,
    /// How the recurrence of a neuron is written.
    #[arg(long, value_enum, default_value = "unrolled")]
    pub(crate) steps: OnnxSteps,
    /// Where to write.
    #[arg(long, short)]
    pub(crate) out: PathBuf,
    /// Replace the file if it exists.
    #[arg(long)]
    pub(crate) force: bool,
}

#[derive(Debug, Args)]
pub(crate) struct TraceArgs {
    #[command(flatten)]
    pub(crate) model: ModelArgs,
    #[command(flatten)]
    pub(crate) trained: WeightsArgs,
    /// A safetensors file with `input` and `labels`.
    #[arg(long, short)]
    pub(crate) batch: PathBuf,
    /// What is run.
    #[arg(long, value_enum, default_value = "eval")]
    pub(crate) mode: TraceMode,
    /// Where it is run.
    #[arg(long, value_enum, default_value = "cpu")]
    pub(crate) backend: TraceBackend,
    /// Names of a published checkpoint layout.
    #[arg(long)]
    pub(crate) layout: Option<String>,
    /// The safetensors file to write.
    #[arg(short, long)]
    pub(crate) out: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct BuildArgs {
    #[command(flatten)]
    pub(crate) model: ModelArgs,
    #[command(flatten)]
    pub(crate) trained: WeightsArgs,
    /// The folder to write into.
    #[arg(short, long)]
    pub(crate) out: PathBuf,
    /// What the code is for: `host` (this machine, with all its instructions), `x86-64` or `aarch64` (Linux).
    #[arg(long, default_value = "host")]
    pub(crate) target: String,
    /// Samples that a context has room for.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) batch: u16,
    /// What names in C begin with; the model's name by default.
    #[arg(long)]
    pub(crate) name: Option<String>,
    /// Put the weights into the object file.
    #[arg(long)]
    pub(crate) embed: bool,
    #[command(flatten)]
    pub(crate) report: ReportArgs,
}

#[derive(Debug, Args)]
pub(crate) struct CertifyArgs {
    /// A `.snn` file or a model of the zoo, with `#Variant` where it holds several; with --verify, the one that the certificate names by
    /// default.
    pub(crate) model: Option<String>,
    #[command(flatten)]
    pub(crate) settings: SettingArgs,
    /// A safetensors file, or the folder of a training run.
    #[arg(long, short)]
    pub(crate) weights: Option<PathBuf>,
    /// Data set to count spikes on.
    #[arg(long)]
    pub(crate) data: Option<String>,
    /// Pictures of the test set to count on; all by default.
    #[arg(long, value_name = "N", requires = "data", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) samples: Option<u32>,
    /// What the code is for: `host`, `x86-64` or `aarch64`.
    #[arg(long, default_value = "host")]
    pub(crate) target: String,
    /// The file to write, ending with .json or .html (a page with a drawing of the network).
    #[arg(short, long)]
    pub(crate) out: Option<PathBuf>,
    /// Samples that a context of the code has room for, as for `snnc build`.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) batch: u16,
    /// Derive this certificate again and compare.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["out", "data", "samples", "target", "batch", "set", "time"])]
    pub(crate) verify: Option<PathBuf>,
    /// With --verify: leave out weights and measurement, if they are not at hand.
    #[arg(long, requires = "verify", conflicts_with = "weights")]
    pub(crate) without_weights: bool,
    #[command(flatten)]
    pub(crate) report: ReportArgs,
}

#[derive(Debug, Args)]
pub(crate) struct CensusArgs {
    /// The object file.
    pub(crate) object: PathBuf,
    /// List all functions, not only those that may multiply.
    #[arg(long)]
    pub(crate) all: bool,
    /// Compare code and functions with those of a certificate (which `snnc certify --verify` derives again).
    #[arg(long, value_name = "FILE")]
    pub(crate) certificate: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) report: ReportArgs,
}

#[derive(Debug, Args)]
pub(crate) struct ZooArgs {
    /// How to report.
    #[arg(long, value_enum, default_value = "human")]
    pub(crate) format: ZooFormat,
}
