//! Times and memory of the ways to one step of ArcFace, 256 × 10,000 × 512 in `f32`: each way in a process of its own. Nothing
//! here knows a framework.

use std::process::Command;
use std::time::Instant;

pub(crate) const ROWS: usize = 256;
pub(crate) const CLASSES: usize = 10_000;
pub(crate) const DIM: usize = 512;

const REPETITIONS: usize = 15;
/// What runs in turns with the core, so that whatever else the machine does falls on both.
const BESIDE_CORE: &str = "--beside";

/// A way: its name, and what makes its step once its inputs are there.
pub(crate) type Way = (&'static str, fn() -> Box<dyn FnMut()>);

/// The first way is the core's, the second is compared with it.
pub(crate) fn run(ways: &[Way]) {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let Some(name) = arguments.first().filter(|name| !name.starts_with("--")) {
        return alone(ways, name);
    }
    if arguments.first().is_some_and(|first| first == BESIDE_CORE) {
        return beside(&ways[..2]);
    }
    println!(
        "{ROWS} × {CLASSES} × {DIM}, f32, least of {REPETITIONS} steps; memory beyond the inputs"
    );
    for (name, _) in ways {
        again(name);
    }
    again(BESIDE_CORE);
}

fn again(argument: &str) {
    let program = std::env::current_exe().expect("this program");
    let status = Command::new(program).arg(argument).status();
    assert!(status.is_ok_and(|status| status.success()), "{argument}");
}

fn alone(ways: &[Way], name: &str) {
    let (_, way) = ways
        .iter()
        .find(|(other, _)| *other == name)
        .expect("a way");
    let mut step = way();
    let inputs = peak_mib();
    let least = (0..REPETITIONS)
        .map(|_| timed(&mut step))
        .fold(f64::INFINITY, f64::min);
    let memory = peak_mib()
        .zip(inputs)
        .map_or(0, |(peak, inputs)| peak - inputs);
    println!("{name:40} {:8.1} ms {memory:6} MiB", 1e3 * least);
}

fn beside(ways: &[Way]) {
    let mut steps: Vec<_> = ways.iter().map(|(_, way)| way()).collect();
    let mut least = [f64::INFINITY; 2];
    for _ in 0..2 * REPETITIONS {
        for (step, least) in steps.iter_mut().zip(&mut least) {
            *least = least.min(timed(step));
        }
    }
    println!(
        "in turns: {} / {} = {:.3}",
        ways[1].0,
        ways[0].0,
        least[1] / least[0]
    );
}

fn timed(step: &mut dyn FnMut()) -> f64 {
    let start = Instant::now();
    step();
    start.elapsed().as_secs_f64()
}

/// The most memory that this process has held, where the system tells.
fn peak_mib() -> Option<usize> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    let kib: usize = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(kib / 1024)
}
