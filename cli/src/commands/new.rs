//! `snnc new`

use crate::Failure;
use crate::args::NewArgs;
use std::fs::OpenOptions;
use std::io::Write;

pub(crate) fn run(args: &NewArgs) -> Result<(), Failure> {
    let mut path = args.name.clone();
    if path.extension().is_none_or(|e| e != "snn") {
        path.as_mut_os_string().push(".snn");
    }
    let stem = args.name.file_stem().map(|s| s.to_string_lossy().into_owned()).unwrap_or_default();
    let words = stem.split(|c: char| !c.is_ascii_alphanumeric()).filter(|w| !w.is_empty());
    let name: String = words.map(|w| w[..1].to_ascii_uppercase() + &w[1..]).collect();
    if name.is_empty() || name.starts_with(|c: char| c.is_ascii_digit()) {
        return Err(Failure::Usage(format!("`{stem}` gives no model name; use letters, e.g. `snnc new my_model`")));
    }
    let text = TEMPLATE.replace("NAME", &name);
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .open(&path)
        .map_err(|e| Failure::Usage(format!("cannot write `{}`: {e}", path.display())))?;
    file.write_all(text.as_bytes()).map_err(|e| Failure::Failed(format!("cannot write `{}`: {e}", path.display())))?;
    println!("wrote {0}\n\nnext:\n  snnc check {0}\n  snnc train {0}", path.display());
    Ok(())
}

const TEMPLATE: &str = r#"//! What this network is, and where it comes from.

require strict

model NAME {
    /// Channels.
    param dim: int = 32

    time T = 4
    input x: analog[C = 1, H = 8, W = 8]
    neuron lif = LIF(tau = 2.0, threshold = 1.0, reset = hard(0.0), surrogate = sigmoid(4.0), detach_reset = true)

    // The first layer sees a picture, not spikes: only here may values be multiplied.
    encoder {
        embed = x |> conv(C = dim, kernel = 3, stride = 1, pad = 1, bias = false) |> batchnorm(C)
    }
    s = embed |> lif
    for i in 0..2 {
        stage stage[i] {
            s = s |> conv(C = dim << i, kernel = 3, stride = 2, pad = 1, bias = false) |> batchnorm(C) |> lif
        }
    }
    output s |> mean(H, W) |> linear(C -> C = 10) |> mean(T)
}

recipe digits for NAME {
    data digits
    optimizer adamw(lr = 0.004, weight_decay = 0.01)
    schedule cosine(epochs = 10, warmup = 1)
    batch 64
    loss cross_entropy(smoothing = 0.1)
    seed 1
}
"#;
