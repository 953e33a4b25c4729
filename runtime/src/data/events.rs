//! Files of event cameras as frames: AEDAT 2.0 and 3.1, and NumPy's npz with events or with frames.
//!
//! Frames are made as SpikingJelly's `split_by="number"` does (Fang et al. 2023): of N events, slice j of T has those from j⌊N/T⌋ on, the last
//! one all that are left; a frame counts the events of every pixel, channel 0 those of polarity 0.

use snnc_compiler::text::bytes as bytes_text;
use snnc_compiler::types::Signal;
use std::fs;
use std::io::{Cursor, Read};
use std::path::Path;
use thiserror::Error;

/// Pixels of a side of the sensors that AEDAT files here are from (DVS128).
const SENSOR: usize = 128;
/// What the text before the data of AEDAT 3.1 ends with.
const END: &[u8] = b"#!END-HEADER\r\n";
/// Bytes of a column of events that are read at most: archives may claim any size.
const MOST: u64 = 1 << 30;
/// Bytes that an array may have before its numbers.
const HEADER: u64 = 1 << 16;
/// Events of pixels, in AEDAT 3.1.
const POLARITY: u16 = 1;

/// Why a file of events cannot be used.
#[derive(Debug, Error)]
pub enum EventError {
    /// It cannot be read, or is none.
    #[error("`{path}` cannot be read as events: {reason}")]
    File {
        /// The file.
        path: String,
        /// Why not.
        reason: String,
    },
    /// The network takes no frames of events, or of another size.
    #[error("`{path}` has frames of {found}, but `{model}` takes {wanted}")]
    Frames {
        /// The file.
        path: String,
        /// What it has.
        found: String,
        /// The network.
        model: String,
        /// What it takes.
        wanted: String,
    },
}

/// An event of a pixel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Event {
    x: usize,
    y: usize,
    /// It became brighter.
    up: bool,
}

/// What a file holds.
enum Held {
    /// In the order of time, from a sensor of so many rows and columns.
    Events(Vec<Event>, [usize; 2]),
    /// `[T, C, H, W]`
    Frames(Vec<f32>, Vec<usize>),
}

/// Whether a path names a file of events, by its ending.
pub fn is_one(path: &Path) -> bool {
    path.extension().is_some_and(|e| e.eq_ignore_ascii_case("aedat") || e.eq_ignore_ascii_case("npz"))
}

/// The frames of a file for a network's input, `[T, axes…]` in its order: counts of events, channel 0 and 1 by polarity.
///
/// In AEDAT 2.0 (CIFAR10-DVS) pixels are turned as SpikingJelly turns them: x = 127 - Y and y = 127 - X.
///
/// # Errors
/// [`EventError`]: no such file, or damaged; pixels outside the sensor; a network that takes frames of another size.
pub fn frames(path: &Path, model: &str, input: &Signal, time: usize) -> Result<Vec<f32>, EventError> {
    let name = path.to_string_lossy().into_owned();
    let refused = |reason: String| EventError::File { path: name.clone(), reason };
    let bytes = fs::read(path).map_err(|e| refused(e.to_string()))?;
    let npz = path.extension().is_some_and(|e| e.eq_ignore_ascii_case("npz"));
    let size = |axis: &str| input.axes.iter().find(|a| a.name == axis).map(|a| a.size);
    // An archive does not say what its sensor's size is: the network does.
    let sensor = ["H", "W"].map(|axis| size(axis).unwrap_or(SENSOR));
    let held = if npz { npz_file(&bytes, sensor, time * input.elements()) } else { aedat(&bytes) }.map_err(&refused)?;
    let other = |found: String| EventError::Frames { path: name.clone(), found, model: model.to_owned(), wanted: wanted_text(input, time) };
    let (values, shape) = match held {
        Held::Frames(values, shape) => (values, shape),
        Held::Events(events, _) if events.is_empty() => return Err(refused("it has no events".into())),
        Held::Events(events, [rows, columns]) => {
            let mut values = vec![0.0; time * 2 * rows * columns];
            let each = events.len() / time;
            for (i, e) in events.iter().enumerate() {
                let slice = i.checked_div(each).unwrap_or(time).min(time - 1);
                values[((slice * 2 + usize::from(e.up)) * rows + e.y) * columns + e.x] += 1.0;
            }
            (values, vec![time, 2, rows, columns])
        }
    };
    let wanted = [Some(time), size("C"), size("H"), size("W")];
    let fits = input.varies && input.axes.len() == 3 && wanted.iter().zip(&shape).all(|(w, s)| *w == Some(*s)) && shape.len() == 4;
    if !fits {
        let text: Vec<String> = shape.iter().skip(1).map(ToString::to_string).collect();
        return Err(other(format!("{} for {} time steps", text.join(" x "), shape[0])));
    }
    // From C, H, W to the network's own order.
    let stride = |axis: &str| match axis {
        "C" => shape[2] * shape[3],
        "H" => shape[3],
        _ => 1,
    };
    let frame = shape[1] * shape[2] * shape[3];
    let [a, b, c] = [0, 1, 2].map(|i| (input.axes[i].size, stride(&input.axes[i].name)));
    let mut out = Vec::with_capacity(values.len());
    for t in 0..time {
        for i in 0..a.0 {
            for j in 0..b.0 {
                out.extend((0..c.0).map(|k| values[t * frame + i * a.1 + j * b.1 + k * c.1]));
            }
        }
    }
    Ok(out)
}

fn wanted_text(input: &Signal, time: usize) -> String {
    if input.varies {
        format!("[{}] for {time} time steps", input.axes_text())
    } else {
        format!("one [{}] for all time steps", input.axes_text())
    }
}

/// AEDAT 2.0 or 3.1.
fn aedat(bytes: &[u8]) -> Result<Held, String> {
    let events = if bytes.starts_with(b"#!AER-DAT2.0") {
        aedat_2(bytes)?
    } else if bytes.starts_with(b"#!AER-DAT3.1") {
        aedat_3(bytes)?
    } else {
        return Err("it does not begin with `#!AER-DAT2.0` or `#!AER-DAT3.1`".into());
    };
    inside(&events, [SENSOR, SENSOR])?;
    Ok(Held::Events(events, [SENSOR, SENSOR]))
}

/// Lines that begin with `#`, then records of 8 bytes, big-endian: an address and a time.
fn aedat_2(bytes: &[u8]) -> Result<Vec<Event>, String> {
    let mut at = 0;
    while bytes.get(at) == Some(&b'#') {
        let line = bytes[at..].iter().position(|b| *b == b'\n').ok_or("its header does not end")?;
        at += line + 1;
    }
    let (records, rest) = bytes[at..].as_chunks::<8>();
    if !rest.is_empty() {
        return Err(format!("it ends within event {}", records.len()));
    }
    let event = |record: &[u8; 8]| {
        let address = u32::from_be_bytes([record[0], record[1], record[2], record[3]]) as usize;
        let (x, y) = ((address & 0xfe) >> 1, (address & 0x7f00) >> 8);
        Event { x: SENSOR - 1 - y, y: SENSOR - 1 - x, up: address & 1 == 0 }
    };
    Ok(records.iter().map(event).collect())
}

/// Text, then packets: a header of 28 bytes, and events of 8 bytes, little-endian.
fn aedat_3(bytes: &[u8]) -> Result<Vec<Event>, String> {
    let end = bytes.windows(END.len()).position(|w| w == END).ok_or("its header does not end with `#!END-HEADER`")?;
    let header = String::from_utf8_lossy(&bytes[..end]);
    if let Some(format) = header.lines().find_map(|l| l.strip_prefix("#Format:")).map(str::trim).filter(|f| *f != "RAW") {
        return Err(format!("its format is `{}`, not RAW", format.chars().take(40).collect::<String>()));
    }
    let mut rest = &bytes[end + END.len()..];
    let mut events = vec![];
    let mut packet = 0;
    // Whether an event is marked as valid is not looked at, as in the published loaders.
    while !rest.is_empty() {
        let cut = || format!("it ends within packet {packet}");
        let (header, after) = rest.split_at_checked(28).ok_or_else(cut)?;
        let word = |at: usize| u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]) as usize;
        let kind = u16::from_le_bytes([header[0], header[1]]);
        let (size, capacity, number) = (word(4), word(16), word(20));
        let payload = size.checked_mul(capacity).ok_or_else(cut)?;
        let (payload, after) = after.split_at_checked(payload).ok_or_else(cut)?;
        if kind == POLARITY {
            if size != 8 {
                return Err(format!("events of packet {packet} have {size} bytes, not 8"));
            }
            if number > capacity {
                return Err(format!("packet {packet} says it has {number} events and room for {capacity}"));
            }
            let (records, _) = payload.as_chunks::<8>();
            events.extend(records[..number].iter().map(|r| {
                let data = u32::from_le_bytes([r[0], r[1], r[2], r[3]]) as usize;
                Event { x: data >> 17 & 0x7fff, y: data >> 2 & 0x7fff, up: data >> 1 & 1 == 1 }
            }));
        }
        (rest, packet) = (after, packet + 1);
    }
    Ok(events)
}

fn inside(events: &[Event], [rows, columns]: [usize; 2]) -> Result<(), String> {
    match events.iter().position(|e| e.y >= rows || e.x >= columns) {
        None => Ok(()),
        Some(i) => Err(format!("event {i} is at x = {}, y = {}, outside the {columns} x {rows} pixels", events[i].x, events[i].y)),
    }
}

/// An archive of arrays, for so many numbers: frames as `frames` or `arr_0`, or events as `x`, `y`, `p` and `t`.
fn npz_file(bytes: &[u8], sensor: [usize; 2], wanted: usize) -> Result<Held, String> {
    let mut archive = zip::ZipArchive::new(Cursor::new(bytes)).map_err(|e| e.to_string())?;
    let mut array = |name: &str, most: u64| -> Result<Option<(Vec<f64>, Vec<usize>)>, String> {
        let file = match archive.by_name(&format!("{name}.npy")) {
            Ok(file) => file,
            Err(zip::result::ZipError::FileNotFound) => return Ok(None),
            Err(e) => return Err(format!("`{name}`: {e}")),
        };
        let mut raw = vec![];
        file.take(most + 1).read_to_end(&mut raw).map_err(|e| format!("`{name}`: {e}"))?;
        if raw.len() as u64 > most {
            return Err(format!("`{name}` is larger than the {} that are looked at", bytes_text(u128::from(most))));
        }
        numbers(&raw).map(Some).map_err(|e| format!("`{name}`: {e}"))
    };
    // More than the network takes, in numbers of 8 bytes, says enough of its shape.
    let most = 64 * wanted as u64 + HEADER;
    for name in ["frames", "arr_0"] {
        if let Some((values, shape)) = array(name, most)? {
            if shape.len() != 4 {
                return Err(format!("`{name}` has {} axes, not T, C, H and W", shape.len()));
            }
            return Ok(Held::Frames(values.into_iter().map(|x| x as f32).collect(), shape));
        }
    }
    let mut column = |name: &str| Ok::<_, String>(array(name, MOST)?.ok_or_else(|| format!("it has neither `frames` nor `{name}`"))?.0);
    let (x, y, p, t) = (column("x")?, column("y")?, column("p")?, column("t")?);
    if [&y, &p, &t].iter().any(|c| c.len() != x.len()) {
        return Err(format!("`x`, `y`, `p` and `t` have {}, {}, {} and {} values", x.len(), y.len(), p.len(), t.len()));
    }
    if let Some(i) = t.windows(2).position(|w| w[1] < w[0]) {
        return Err(format!("the time of event {} is before that of event {i}", i + 1));
    }
    if let Some(i) = p.iter().position(|p| ![-1.0, 0.0, 1.0].contains(p)) {
        return Err(format!("the polarity of event {i} is {}, not 0 or 1 (or -1 or 1)", p[i]));
    }
    let pixel = |c: f64, size: usize| (c >= 0.0 && c.fract() == 0.0 && c < size as f64).then_some(c as usize);
    let mut events = vec![];
    for i in 0..x.len() {
        let (Some(x), Some(y)) = (pixel(x[i], sensor[1]), pixel(y[i], sensor[0])) else {
            return Err(format!("event {i} is at x = {}, y = {}, outside the {} x {} pixels", x[i], y[i], sensor[1], sensor[0]));
        };
        events.push(Event { x, y, up: p[i] > 0.0 });
    }
    Ok(Held::Events(events, sensor))
}

/// The numbers of an array of any plain type, and its shape.
fn numbers(raw: &[u8]) -> Result<(Vec<f64>, Vec<usize>), String> {
    let head = npyz::NpyFile::new(raw).map_err(|e| e.to_string())?;
    if head.order() != npyz::Order::C && head.shape().len() > 1 {
        return Err("it is in Fortran's order".into());
    }
    let shape: Vec<usize> = head.shape().iter().map(|n| *n as usize).collect();
    // As many as there are bytes, at most.
    if shape.iter().try_fold(1usize, |all, n| all.checked_mul(*n)).is_none_or(|all| all > raw.len()) {
        return Err("its numbers are damaged, or cut short".into());
    }
    macro_rules! of {
        ($($kind:ty => $to:expr),*) => {
            $(if let Ok(file) = npyz::NpyFile::new(raw) && let Ok(values) = file.into_vec::<$kind>() {
                return Ok((values.into_iter().map($to).collect(), shape));
            })*
        };
    }
    of!(f32 => f64::from, f64 => |x| x, i64 => |x| x as f64, u64 => |x| x as f64, i32 => f64::from, u32 => f64::from, i16 => f64::from,
        u16 => f64::from, i8 => f64::from, u8 => f64::from, bool => |x| f64::from(u8::from(x)));
    let kind = head.dtype().descr();
    Err(format!("its numbers are damaged, or of a type that is not read: {}", kind.chars().take(40).collect::<String>()))
}
