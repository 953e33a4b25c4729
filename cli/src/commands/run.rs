//! `snnc run`

use crate::args::{Format, RunArgs};
use crate::{Failure, model};
use serde_json::json;
use snnc_compiler::lower::Watch;
use snnc_runtime::data::events;
use snnc_runtime::session::{Decision, Inference, decision};
use snnc_runtime::train::checkpoint::model_file;
use std::fs::File;
use std::io::{BufReader, Cursor, ErrorKind, Read, Write};

pub(crate) fn run(args: &RunArgs) -> Result<(), Failure> {
    let loaded = model::load(&args.model)?;
    let graph = loaded.checked.graph();
    let stepwise = args.stream || args.until.is_some();
    let mut session = model::inference(&loaded.checked, &model_file(&args.trained.weights), (Watch::Nothing, stepwise))?;
    if stepwise {
        session.streams().map_err(Failure::failed)?;
    }
    let signal = &graph.node(graph.input).signal;
    // A picture stands for all time steps, of frames there is one for each.
    let frames = if signal.varies { graph.time } else { 1 };
    let from: Box<dyn Read> = match args.input.as_deref().filter(|path| events::is_one(path)) {
        Some(path) => {
            let values = events::frames(path, &graph.name, signal, graph.time).map_err(Failure::failed)?;
            Box::new(Cursor::new(values.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>()))
        }
        None => open(args)?,
    };
    let mut input = Frames { from, size: signal.elements(), frames, sample: 0 };
    let report = Report { args, steps: graph.time };
    loop {
        let outcome = if stepwise { input.step_by_step(&mut session, &report) } else { input.at_once(&mut session, &report) };
        if !outcome? {
            let bytes = 4 * input.size * frames;
            if input.sample == 0 {
                eprintln!("note: the input is empty: a sample has {bytes} bytes");
            }
            return Ok(());
        }
        input.sample += 1;
    }
}

fn open(args: &RunArgs) -> Result<Box<dyn Read>, Failure> {
    match args.input.as_deref().filter(|path| path.as_os_str() != "-") {
        None => Ok(Box::new(BufReader::new(std::io::stdin()))),
        Some(path) => {
            let file = File::open(path).map_err(|e| Failure::Usage(format!("cannot read `{}`: {e}", path.display())))?;
            Ok(Box::new(BufReader::new(file)))
        }
    }
}

/// Raw little-endian floats: samples, one after another.
struct Frames {
    from: Box<dyn Read>,
    /// Numbers of a frame.
    size: usize,
    /// Frames of a sample.
    frames: usize,
    sample: usize,
}

impl Frames {
    /// The next frame of a sample; `None` if the input ends before the sample begins.
    fn next(&mut self, frame: usize) -> Result<Option<Vec<f32>>, Failure> {
        let mut bytes = vec![0; 4 * self.size];
        let mut there = 0;
        while there < bytes.len() {
            match self.from.read(&mut bytes[there..]) {
                Ok(0) => break,
                Ok(n) => there += n,
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) => return Err(Failure::Failed(format!("cannot read the input: {e}"))),
            }
        }
        if there == 0 && frame == 0 {
            return Ok(None);
        }
        if there < bytes.len() {
            let (sample, frames) = (self.sample, self.frames);
            let frame = if frames > 1 { format!(", in frame {} of {frames}", frame + 1) } else { String::new() };
            let text = format!("the input ends within sample {sample}{frame}: {there} of {} bytes are there", bytes.len());
            return Err(Failure::Failed(text));
        }
        let (words, _) = bytes.as_chunks::<4>();
        Ok(Some(words.iter().map(|b| f32::from_le_bytes(*b)).collect()))
    }

    fn in_sample(&self, e: &dyn std::fmt::Display) -> Failure {
        Failure::Failed(format!("sample {}: {e}", self.sample))
    }

    /// A sample, all time steps of it; `false` if there is none.
    fn at_once(&mut self, session: &mut Inference, report: &Report<'_>) -> Result<bool, Failure> {
        let mut whole = Vec::new();
        for frame in 0..self.frames {
            let Some(values) = self.next(frame)? else { return Ok(false) };
            whole.extend(values);
        }
        let logits = session.run(&whole, 1).map_err(|e| self.in_sample(&e))?;
        report.done(self.sample, report.steps, &logits);
        Ok(true)
    }

    /// A sample, one time step after another, as far as is needed.
    fn step_by_step(&mut self, session: &mut Inference, report: &Report<'_>) -> Result<bool, Failure> {
        session.reset();
        let (mut values, mut decided) = (Vec::new(), false);
        for step in 0..report.steps {
            if step < self.frames {
                let Some(next) = self.next(step)? else { return Ok(false) };
                values = next;
            }
            // What is left of a sample that is decided is read, and not looked at.
            if decided {
                continue;
            }
            let logits = session.step(&values, 1, 1).map_err(|e| self.in_sample(&e))?;
            let now = decision(&logits);
            if report.args.stream {
                report.step(self.sample, step + 1, &now, &logits);
            }
            decided = step + 1 == report.steps || report.args.until.is_some_and(|least| now.lead >= least);
            if decided {
                report.done(self.sample, step + 1, &logits);
            }
        }
        Ok(true)
    }
}

struct Report<'a> {
    args: &'a RunArgs,
    /// Time steps of a sample.
    steps: usize,
}

impl Report<'_> {
    fn step(&self, sample: usize, step: usize, now: &Decision, logits: &[f32]) {
        if self.args.report.format == Format::Json {
            println!("{}", json!({ "sample": sample, "step": step, "class": now.class, "lead": now.lead, "logits": logits }));
        } else {
            println!("sample {sample}, step {step} of {}: class {}, ahead by {:.3}", self.steps, now.class, now.lead);
        }
        // Somebody may be waiting at the other end of a pipe.
        let _ = std::io::stdout().flush();
    }

    fn done(&self, sample: usize, used: usize, logits: &[f32]) {
        let (Decision { class, lead }, steps) = (decision(logits), self.steps);
        if self.args.report.format == Format::Json {
            println!("{}", json!({ "sample": sample, "class": class, "lead": lead, "steps_used": used, "steps": steps, "logits": logits }));
        } else {
            println!("sample {sample}: class {class} after {used} of {steps} steps, ahead by {lead:.3}");
        }
        let _ = std::io::stdout().flush();
    }
}
