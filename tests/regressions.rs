//! Models that were once computed wrongly, or wrongly called strict: reference, unfolded, folded and training must agree.

use crate::{agreement, folds, operators};
use snnc_compiler::check::Verdict;
use snnc_compiler::graph::Settings;
use snnc_compiler::lower::Watch;
use snnc_compiler::ops::Role;
use snnc_runtime::calibrate::{calibrated, firing_rate, pictures};
use snnc_runtime::session::Inference;
use snnc_runtime::weights::Weights;
use snnc_tests::{build_text, checked_text};

/// A model with this input, body and `output`.
fn text(input: &str, body: &str) -> String {
    format!("model M {{\n time T = 3\n input x: {input}\n neuron lif = LIF(tau = 2.0)\n {body}\n}}\n")
}

fn model(input: &str, body: &str) -> snnc_compiler::check::Checked {
    checked_text(&text(input, body), &Settings::default())
}

/// Evaluates, folds and trains like the reference.
fn agrees(input: &str, body: &str) {
    let checked = model(input, body);
    for seed in [1, 2] {
        folds::agrees(&checked, seed);
        agreement::agrees(&checked, seed);
    }
    operators::trains_alike(&checked, body);
}

/// What building finds wrong.
fn refused(input: &str, body: &str) -> String {
    let (_, graph) = build_text("test.snn", &text(input, body), None, &Settings::default());
    graph.unwrap_err().iter().map(|d| format!("{}: {}\n", d.code, d.message)).collect()
}

const HEAD: &str = "output y |> lif |> linear(C -> C = 10) |> mean(H, W) |> mean(T)";
const PICTURE: &str = "analog[C = 3, H = 6, W = 4]";
const ENCODER: &str = "encoder { e = x |> conv(C = 4, kernel = 3, pad = 1) }\n s = e |> lif\n ";

#[test]
fn pictures_in_another_order_of_axes() {
    agrees("analog[C = 1, W = 6, H = 5]", &format!("encoder {{ y = x |> conv(C = 6, kernel = 3, pad = 1) }}\n {HEAD}"));
    agrees("analog[W = 6, C = 2, H = 5]", &format!("encoder {{ y = x |> conv(C = 6, kernel = 3, pad = 1) }}\n {HEAD}"));
}

#[test]
fn parts_of_a_concat_of_rows_and_columns() {
    for axis in ["H", "W"] {
        let body = "a = s |> conv(C = 5, kernel = 3, pad = 1, bias = false)\n b = s |> conv(C = 5, kernel = 1, bias = false)\n";
        agrees(PICTURE, &format!("{ENCODER}{body} y = concat({axis}; a, b, a)\n {HEAD}"));
    }
}

#[test]
fn a_mean_that_keeps_its_factor_counts_nothing() {
    let pools = "p = s |> avg_pool(kernel = 2, stride = 2)\n q = s |> max_pool(kernel = 2, stride = 2)\n";
    for join in ["p + q", "concat(C; p, q)"] {
        let body = format!("{ENCODER}{pools} y = {join} |> conv(C = 5, kernel = 1)\n {HEAD}");
        assert_eq!(model(PICTURE, &body).findings().verdict, Verdict::Violated, "{join}");
        agrees(PICTURE, &body);
    }
}

#[test]
fn a_factor_goes_into_all_that_read_it() {
    let body = format!(
        "{ENCODER}p = s |> avg_pool(kernel = 2, stride = 2)\n a = p |> conv(C = 5, kernel = 1)\n b = p |> linear(C -> C = 5)\n y = a + b\n {HEAD}"
    );
    assert_eq!(model(PICTURE, &body).findings().verdict, Verdict::Strict);
    agrees(PICTURE, &body);
    let body = format!(
        "{ENCODER}p = s |> batchnorm(C)\n a = p |> conv(C = 5, kernel = 1)\n b = p |> lif\n y = a + (b |> linear(C -> C = 5))\n {HEAD}"
    );
    assert_eq!(model(PICTURE, &body).findings().verdict, Verdict::Strict);
    agrees(PICTURE, &body);
}

#[test]
fn a_factor_does_not_pass_one_that_stays() {
    let body = format!("{ENCODER}y = s |> avg_pool(kernel = 2, stride = 2) |> batchnorm(C) |> conv(C = 6, kernel = 3, pad = 1)\n {HEAD}");
    assert_eq!(model(PICTURE, &body).findings().verdict, Verdict::Violated);
    agrees(PICTURE, &body);
}

#[test]
fn a_chain_may_end_in_another_axis() {
    let body =
        "y = s |> conv(C = 8, kernel = 3, pad = 1) |> linear(C -> D = 2) |> lif\n output y |> mean(H, W) |> linear(D -> C = 10) |> mean(T)";
    let body = format!("{ENCODER}{body}");
    assert_eq!(model(PICTURE, &body).findings().verdict, Verdict::Strict);
    agrees(PICTURE, &body);
}

#[test]
fn spikes_mapped_to_a_new_axis_beside_long_rows() {
    for (h, w) in [(2, 9), (9, 8), (12, 3)] {
        let input = format!("analog[C = 3, H = {h}, W = {w}]");
        agrees(&input, &format!("{ENCODER}y = s |> linear(C -> K = 5) |> lif\n output y |> linear(K -> C = 10) |> mean(H, W) |> mean(T)"));
        agrees(
            &input,
            &format!(
                "{ENCODER}y = s |> linear(C -> K = 5) |> lif |> merge(K, W -> C)\n output y |> linear(C -> C = 10) |> mean(H) |> mean(T)"
            ),
        );
    }
}

/// Where only some neurons have a norm before them, the biases of the layers before the others are shifted, too.
#[test]
fn random_weights_for_a_rate_where_few_layers_have_norms() {
    let body = "encoder { e = x |> conv(C = 8, kernel = 3, pad = 1) |> batchnorm(C) }\n s = e |> lif\n \
                y = s |> conv(C = 32, kernel = 3, pad = 1) |> lif |> conv(C = 32, kernel = 1) |> lif\n output y |> linear(C -> C = 10) |> mean(H, W) |> mean(T)";
    let checked = model(PICTURE, body);
    for rate in [0.07, 0.4] {
        let weights = calibrated(&checked, rate, 1).unwrap();
        let mut session = Inference::new(&checked, &weights, 1, Watch::Spikes).unwrap();
        let found = firing_rate(&mut session, checked.graph(), &pictures(checked.graph(), 1, 1), 1).unwrap();
        assert!((found - rate).abs() <= 0.05 * rate, "{found}, not {rate}");
    }
}

#[test]
fn pools_whose_rows_lie_next_to_each_other() {
    for pool in ["max_pool(kernel = 1)", "max_pool(kernel = 3, pad = 1)", "avg_pool(kernel = [2, 3], stride = [1, 2])"] {
        let body = format!(
            "encoder {{ e = x |> linear(W -> W = 33) }}\n s = e |> lif\n y = s |> linear(H -> H = 6) |> {pool} |> IF(threshold = 0.2)"
        );
        agrees("analog[H = 3, W = 4]", &format!("{body}\n output y |> linear(W -> K = 4) |> mean(H) |> mean(T)"));
        agrees(
            "spike[H = 4, W = 17]",
            &format!("y = x |> {pool} |> IF(threshold = 0.2)\n output y |> linear(W -> K = 4) |> mean(H) |> mean(T)"),
        );
    }
    let body =
        "s = x |> linear(H -> H = 32) |> merge(W, H -> W) |> split(W -> W = 2, H = 32) |> avg_pool(kernel = (3, 2), stride = (1, 2))";
    agrees(
        "spike[C = 3, H = 3, W = 2]",
        &format!("{body}\n output s |> IF(threshold = 0.2) |> mean(C, W) |> linear(H -> K = 5, bias = false) |> mean(T)"),
    );
}

/// What is a sum by another name is read by loops that begin after the sum has left its registers.
#[test]
fn a_sum_by_another_name_outlives_its_registers() {
    let body = "neuron lo = LIF(tau = 2.0, threshold = 0.5)\n encoder { i = x |> conv(C = 16, kernel = 3, pad = 1) }\n s = i |> lif\n \
                p = s |> avg_pool(kernel = 1, stride = 1)\n b = p |> lo\n c = s |> linear(C -> C)\n d = p + c |> lif\n \
                e = concat(C; b, d) |> linear(C -> C = 16) |> lo\n output e |> mean(H, W) |> linear(C -> C = 4) |> mean(T)";
    agrees("analog[C = 2, H = 4, W = 4]", body);
    let body = body.replace("p = s |> avg_pool(kernel = 1, stride = 1)", "q = s |> linear(C -> C)\n p = 1.0 * q");
    agrees("analog[C = 2, H = 4, W = 4]", &body);
}

/// More loops in one than a frame has room for.
#[test]
fn many_sums_of_one_loop() {
    let sums: String = (0..50).map(|n| format!("a{n} = s |> linear(C -> C = 16) |> lif\n")).collect();
    let all: Vec<String> = (0..50).map(|n| format!("a{n}")).collect();
    let body = format!(
        "encoder {{ i = x |> linear(C -> C = 80) }}\n s = i |> lif\n {sums} output concat(C; {}) |> linear(C -> C = 3) |> mean(T)",
        all.join(", ")
    );
    agreement::agrees(&model("analog[C = 8]", &body), 1);
}

#[test]
fn steps_without_end_are_not_folded_into_one() {
    for (count, step) in [(1000, "batchnorm(C)"), (1000, "linear(C -> C)"), (300, "batchnorm(C) |> linear(C -> C)")] {
        let checked =
            model("spike[C = 2]", &format!("y = x |> linear(C -> C)\n for i in 0..{count} {{ y = y |> {step} }}\n output y |> mean(T)"));
        assert_eq!(checked.findings().verdict, Verdict::Violated);
        let weights = Weights::initial(checked.graph(), 1);
        Inference::new(&checked, &weights, 1, Watch::Nothing).unwrap();
    }
}

#[test]
fn a_chain_of_three_is_weighed_whole() {
    let residues = |inputs: usize, maps: &str| {
        let chain = format!("y = s |> linear(C -> C = {inputs}) |> lif{maps}");
        model(PICTURE, &format!("{ENCODER}{chain}\n {HEAD}")).findings().residues.len()
    };
    let maps = " |> linear(C -> C = 5) |> linear(C -> C = 5) |> linear(C -> C = 60)";
    assert_eq!(residues(60, maps), 1, "60 x 60 weights are more than 60 x 5, 5 x 5 and 5 x 60");
    let maps = " |> linear(C -> C = 100) |> linear(C -> C = 5) |> linear(C -> C = 60)";
    assert_eq!(residues(10, maps), 0, "10 x 60 weights are fewer than 10 x 100, 100 x 5 and 5 x 60");
}

#[test]
fn factors_that_leave_f32_are_refused() {
    let loads = |factor: &str| {
        let body = format!("{ENCODER}y = (s + s) * {factor} |> LIF(tau = 2.0, threshold = 1e-20)\n {HEAD}");
        let body = body.replace("output y |> lif", "output y");
        let checked = model(PICTURE, &body);
        let weights = Weights::initial(checked.graph(), 1);
        Inference::new(&checked, &weights, 2, Watch::Nothing).map(|_| ()).map_err(|e| e.to_string())
    };
    assert_eq!(loads("1e10"), Ok(()));
    let error = loads("1e30").unwrap_err();
    assert!(error.contains("make `y.LIF.threshold` 2.00e-50,"), "{error}");
}

#[test]
fn spikes_from_outside_select() {
    for body in ["q = x |> linear(W -> W)\n y = dot(H; q, x)", "q = x |> linear(W -> W)\n y = dot(H; x, q)"] {
        agrees("spike[C = 3, H = 6, W = 4]", &format!("{body}\n output y |> lif |> linear(C -> C = 10) |> mean(W) |> mean(T)"));
    }
}

#[test]
fn shared_instances() {
    let blocks = "block Mlp(s: spike[C], a: neuron) -> current[C] {\n yield s |> linear(C -> C = C * 2) |> batchnorm(C) |> a |> linear(C -> C = C)\n}\n";
    let body = "encoder { f = x |> linear(C -> C = 4) }\n share f2 = Mlp(a = lif)\n s = f |> lif\n a = f2(s)\n b = f2(a |> lif)\n \
                output a + b |> lif |> linear(C -> C = 10) |> mean(T)";
    let checked = checked_text(&format!("{blocks}{}", text("analog[T, C = 3]", body)), &Settings::default());
    let trained = checked.graph().params.iter().filter(|p| p.role == Role::Trained).count();
    assert_eq!(trained, 2 + 6 + 2, "the two uses have one set of parameters");
    folds::agrees(&checked, 1);
    agreement::agrees(&checked, 1);
    operators::trains_alike(&checked, "shared");
    let other = "share f = linear(C -> C = 4)\n a = f(x)\n b = f(a)\n output a + b |> mean(T)";
    assert!(refused("analog[T, C = 3]", other).contains("would have to be [out = 4, in = 4]"));
}

#[test]
fn names_that_are_taken() {
    assert!(refused("analog[B = 3, C = 4]", "output x |> mean(B)").contains("shape::axis"));
    assert!(refused("analog[C = 4]", "output x |> linear(C -> T = 5)").contains("T is 3, not 5"));
    assert!(refused("analog[C = 4]", "output x |> batchnorm(C, C)").contains("named twice"));
    assert!(refused("analog[C = 4, G = 2, H = 4, W = 4]", "output x |> conv(C = 3, kernel = 1)").contains("has G too"));
    assert!(refused("analog[T, C = 4]", "output x |> mean(T, T)").contains("named twice"));
    assert!(refused("analog[C = 4]", "for i in 0..2 { param n: int = 1 }\n output x").contains("build::misplaced"));
    assert!(refused("analog[C = 4]", "neuron n = LIF(reset = soft(5))\n output x").contains("takes no argument"));
    assert!(refused("analog[C = 4]", "nodes a: current[C]\n output x").contains("build::misplaced"));
    assert!(refused("analog[C = 4]", "neuron n = LIF(surrogate = sigmoid(alpha = 9.0))\n output x").contains("no argument `alpha`"));
    assert!(refused("analog[C = 4]", "param n: int = 1\n param n: int = 2\n output x").contains("resolve::duplicate"));
    assert!(refused("analog[C = 4]", "allow(leak, count = -5, \"none\")\n output x").contains("build::allow"));
    assert!(refused("analog[C = 4]", "y = [1, 2]\n for i in 0..40 { y = y + y }\n output x").contains("build::value"));
    let blocks = "block B(s: current[C], k: int = \"a\") -> current[C] {\n yield s\n}\n";
    let (_, graph) = build_text("t.snn", &format!("{blocks}{}", text("analog[C = 4]", "output x |> B")), None, &Settings::default());
    assert!(graph.unwrap_err().iter().any(|d| d.code == "build::type"));
    let blocks = "block B(s: spike[C], t: spike[C] = B(s)) -> spike[C] {\n yield s\n}\n";
    let (_, graph) = build_text("t.snn", &format!("{blocks}{}", text("spike[C = 4]", "output x |> B")), None, &Settings::default());
    assert!(graph.unwrap_err().iter().any(|d| d.code == "resolve::recursion"));
}

#[test]
fn chains_that_nest_as_deep_as_brackets() {
    for long in [
        format!("require {}1 == 1", "1 == 1 && ".repeat(60_000)),
        format!("y = x{}", "[0]".repeat(100_000)),
        format!("y = \"\\\\\" {}", "+ 1 ".repeat(100_000)),
    ] {
        assert!(refused("analog[C = 4]", &format!("{long}\n output x")).contains("syntax::too_deep"));
    }
    // As many as there may be.
    let fine = format!("require {}1 == 1\n output x |> mean(T)", "1 == 1 && ".repeat(80));
    model("analog[T, C = 4]", &fine);
}

#[test]
fn spikes_that_are_worth_their_threshold() {
    let neurons = [
        "IF(threshold = trainable(0.7, min = 0.01), fire_at = 0.5, amplitude = threshold, reset = soft)",
        "LIF(tau = 4.0, threshold = trainable(0.7), amplitude = threshold(2.0), reset = soft)",
        "LIF(tau = 2.0, threshold = 0.6, amplitude = threshold(0.3))",
    ];
    let readers = [
        "y = v |> conv(C = 5, kernel = 3, pad = 1)",
        "y = v |> linear(C -> C) |> batchnorm(C)",
        "y = (v |> linear(C -> C)) + v",
        "y = v |> batchnorm(C)",
        "y = v |> max_pool(kernel = 2, stride = 2) |> conv(C = 5, kernel = 1)",
        "y = v |> avg_pool(kernel = 3, stride = 2, pad = 1) |> batchnorm(C)",
        "y = v |> avg_pool(kernel = 2, stride = 2) |> merge(H, W -> N) |> linear(N -> H = 2) |> split(C -> C = 2, W = 2)",
        "y = v |> adaptive_avg_pool(H = 12, W = 8) |> linear(C -> C)",
        "y = v |> adaptive_avg_pool(H = 3, W = 2) |> linear(C -> C)",
        "y = concat(C; v, v |> linear(C -> C)) |> lif |> linear(C -> C = 4)",
        "y = v |> dropout(0.3) |> linear(C -> C)",
        "a = v |> linear(C -> C)\n y = a - v",
    ];
    for neuron in neurons {
        for reader in readers {
            let body = format!("{ENCODER}v = e |> {neuron}\n {reader}\n {HEAD}");
            assert_eq!(model(PICTURE, &body).findings().verdict, Verdict::Strict, "{neuron} {reader}");
            agrees(PICTURE, &body);
        }
        // Beside others such a spike is a number.
        for product in ["s * v", "v * s", "v * v", "v * (s |> linear(C -> C))", "(v |> max(H, W)) * s", "(v + s |> lif) * (v - s |> lif)"] {
            let body = format!("{ENCODER}v = e |> {neuron}\n y = {product} |> lif |> linear(C -> C)\n {HEAD}");
            agrees(PICTURE, &body);
        }
        for readout in ["mean(T)", "mean(T, decay = 0.9)", "mean(H, W, T)", "max_pool(kernel = 2, stride = 2) |> mean(H, W, T)"] {
            let output = if readout.contains("H") {
                readout.to_owned()
            } else {
                format!("linear(H -> H = 1) |> mean(H, W) |> {neuron} |> {readout}")
            };
            let body = format!("{ENCODER}v = s |> linear(C -> C = 10) |> {neuron}\n output v |> {output}");
            assert_eq!(model(PICTURE, &body).findings().verdict, Verdict::Strict, "{body}");
            agrees(PICTURE, &body);
        }
    }
}

#[test]
fn a_second_layer_of_neurons_does_not_multiply_in_the_encoder() {
    let verdict = |tau: &str| {
        let text = format!(
            "model M {{\n time T = 2\n input x: analog[C = 2]\n neuron a = LIF(tau = 3.0)\n neuron b = LIF(tau = {tau})\n \
             encoder {{ e = x |> linear(C -> C) |> a |> b }}\n s = e |> linear(C -> C = 3) |> IF(threshold = 0.5)\n output s |> mean(T)\n}}"
        );
        checked_text(&text, &Settings::default()).findings().verdict
    };
    assert_eq!(verdict("2.0"), Verdict::Strict);
    assert_eq!(verdict("3.0"), Verdict::Violated);
}
