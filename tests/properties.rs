mod support;
use support::{SplitMix, Tape, Wildness, judge};
#[test]
fn quick() {
    let mut counts = std::collections::BTreeMap::new();
    let from: u64 = std::env::var("FROM").map_or(0, |v| v.parse().unwrap());
    for seed in from..from + 60000 {
        let mut rng = SplitMix(seed);
        let len = 10 + rng.below(300);
        let bytes: Vec<u8> = (0..len).map(|_| rng.bits() as u8).collect();
        let r = std::panic::catch_unwind(|| {
            if seed % 2 == 0 {
                format!("{:?}", judge(&Tape(&bytes).scenario::<f32>(Wildness::Bad)))
            } else {
                format!("{:?}", judge(&Tape(&bytes).scenario::<f64>(Wildness::Bad)))
            }
        });
        match r {
            Ok(v) => {
                let k: String = v.chars().take_while(|c| *c != '{').collect();
                *counts.entry(k).or_insert(0) += 1;
            }
            Err(_) => {
                println!("SEED {seed}");
                if seed % 2 == 0 {
                    println!("{:?}", Tape(&bytes).scenario::<f32>(Wildness::Bad))
                } else {
                    println!("{:?}", Tape(&bytes).scenario::<f64>(Wildness::Bad))
                }
                *counts.entry("FAIL".into()).or_insert(0) += 1;
            }
        }
    }
    println!("{counts:#?}");
}
