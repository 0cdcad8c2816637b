//! The crate against its floor: ArcFace's loss and gradients, over the three bare products they cannot do without.
//!
//! ```sh
//! cargo bench --bench floor                # every case but the largest
//! cargo bench --bench floor -- A           # one case: A, B, C, D, E
//! cargo bench --bench floor -- E:64        # with a scratch limit of 64 MiB
//! cargo bench --bench floor -- losses      # every loss against NormFace, case B
//! cargo bench --bench floor -- shards      # a job of one rank, full and sampled, against the plain loss, cases B and E
//! ```
//!
//! Both sides run in turn in one process on the same arrays, and medians are compared, so that what the machine does
//! beside this falls on both. The products are faer's, whole, on all threads: the fastest that were found. The loss alone, all
//! scores (N×C, newly allocated) and the best class are compared with the first of them. `peak_share` is the
//! share of the machine's multiply-adds that a step makes of its three products: the peak is that of registers alone, on all
//! threads, measured right before.

use std::hint::black_box;
use std::time::Instant;

use faer::linalg::matmul::matmul;
use faer::{Accum, MatMut, MatRef, Par};
use margin_losses::ndarray::{Array2, ArrayView2, ArrayViewMut2};
use margin_losses::shards::{Sampling, Sharded, Shards, Solo};
use margin_losses::{
    ArcFace, ClassBlock, Composed, Error, Evaluation, MarginLoss, NormFace, Objective, SoftmaxLoss,
    Targets, init,
};
use pulp::{Arch, Simd, WithSimd};

struct Case {
    name: &'static str,
    rows: usize,
    classes: usize,
    dim: usize,
    repetitions: usize,
}

const CASES: [Case; 5] = [
    Case {
        name: "A",
        rows: 256,
        classes: 100_000,
        dim: 512,
        repetitions: 15,
    },
    Case {
        name: "B",
        rows: 256,
        classes: 10_000,
        dim: 512,
        repetitions: 61,
    },
    Case {
        name: "C",
        rows: 64,
        classes: 100_000,
        dim: 128,
        repetitions: 61,
    },
    Case {
        name: "D",
        rows: 128,
        classes: 1_000,
        dim: 128,
        repetitions: 501,
    },
    Case {
        name: "E",
        rows: 256,
        classes: 1_000_000,
        dim: 128,
        repetitions: 7,
    },
];

/// Multiply-adds in twelve registers, which hide each other's latency.
struct Peak;

/// Rounds of [`Peak`].
const ROUNDS: u32 = 1_000_000;

impl WithSimd for Peak {
    /// Floating-point operations made.
    type Output = f64;

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> f64 {
        let factor = simd.splat_f32s(black_box(0.999_999));
        let summand = simd.splat_f32s(black_box(1e-6));
        let mut registers = [simd.splat_f32s(black_box(1.0)); 12];
        for _ in 0..ROUNDS {
            for register in &mut registers {
                *register = simd.mul_add_f32s(*register, factor, summand);
            }
        }
        black_box(registers);
        f64::from(ROUNDS) * 12.0 * 2.0 * S::F32_LANES as f64
    }
}

/// The machine's floating-point operations a second on all threads, the best of a few tries.
fn peak() -> f64 {
    let once = || {
        let start = Instant::now();
        let operations: f64 = rayon::broadcast(|_| Arch::new().dispatch(Peak))
            .iter()
            .sum();
        operations / start.elapsed().as_secs_f64()
    };
    (0..9).map(|_| once()).fold(0.0, f64::max)
}

struct Arrays {
    features: Array2<f32>,
    weights: Array2<f32>,
    labels: Vec<usize>,
}

impl Case {
    fn arrays(&self) -> Result<Arrays, Error> {
        Ok(Arrays {
            features: init::normal(self.rows, self.dim, 1.0, 1)?,
            weights: init::class_weights(self.classes, self.dim, 2)?,
            labels: (0..self.rows)
                .map(|row| row * 7_919 % self.classes)
                .collect(),
        })
    }
}

fn main() -> Result<(), Error> {
    let wanted: Vec<String> = std::env::args()
        .skip(1)
        .filter(|arg| !arg.starts_with("--"))
        .collect();
    if wanted.is_empty() {
        for case in &CASES[..4] {
            measure(case, None)?;
        }
    }
    for word in wanted {
        if word == "losses" {
            every_loss(&CASES[1])?;
            continue;
        }
        if word == "shards" {
            one_rank(&CASES[1])?;
            one_rank(&CASES[4])?;
            continue;
        }
        let (name, limit) = match word.split_once(':') {
            Some((name, limit)) => (name, limit.parse().ok()),
            None => (word.as_str(), None),
        };
        match CASES.iter().find(|case| case.name == name) {
            Some(case) => measure(case, limit)?,
            None => println!(
                "no case {name}: A, B, C, D, E, each with :MiB if wanted, losses, or shards"
            ),
        }
    }
    Ok(())
}

fn view(array: ArrayView2<'_, f32>) -> MatRef<'_, f32> {
    let (rows, columns) = array.dim();
    MatRef::from_row_major_slice(array.to_slice().expect("row-major"), rows, columns)
}

fn view_mut(array: ArrayViewMut2<'_, f32>) -> MatMut<'_, f32> {
    let (rows, columns) = array.dim();
    MatMut::from_row_major_slice_mut(array.into_slice().expect("row-major"), rows, columns)
}

/// Seconds that each of `tasks` takes: medians over repetitions in turn.
fn medians<const N: usize>(repetitions: usize, mut tasks: [&mut dyn FnMut(); N]) -> [f64; N] {
    let mut times = [const { Vec::new() }; N];
    for repetition in 0..=repetitions {
        for (task, times) in tasks.iter_mut().zip(&mut times) {
            let start = Instant::now();
            task();
            // The first round warms caches and buffers.
            if repetition > 0 {
                times.push(start.elapsed().as_secs_f64());
            }
        }
    }
    times.map(|mut times| {
        times.sort_by(f64::total_cmp);
        times[times.len() / 2]
    })
}

fn measure(case: &Case, limit_mib: Option<usize>) -> Result<(), Error> {
    let Arrays {
        features,
        weights,
        labels,
    } = case.arrays()?;
    let (x, w) = (features.view(), weights.view());
    let targets = Targets::new(&labels);
    let loss = ArcFace::default();
    let mut evaluation = Evaluation::new();
    if let Some(mib) = limit_mib {
        evaluation = Evaluation::with_scratch_limit(mib << 20);
    }
    let threads = rayon::current_num_threads();
    let one = rayon::ThreadPoolBuilder::new()
        .num_threads(1)
        .build()
        .expect("a pool of one thread");

    let mut logits = Array2::<f32>::zeros((case.rows, case.classes));
    let mut grad_features = Array2::<f32>::zeros((case.rows, case.dim));
    let mut grad_weights = Array2::<f32>::zeros((case.classes, case.dim));
    let par = Par::rayon(threads);
    // The loss and the scores alone first, so that no side finds another's arrays in the cache.
    let [one_product, forward, scores, best] = medians(
        case.repetitions,
        [
            &mut || {
                matmul(
                    view_mut(logits.view_mut()),
                    Accum::Replace,
                    view(x),
                    view(w).transpose(),
                    1.0,
                    par,
                );
            },
            &mut || {
                MarginLoss::<f32>::forward(&loss, x, w, &targets).expect("valid arguments");
            },
            &mut || {
                black_box(loss.scores(x, w).expect("valid arguments"));
            },
            &mut || {
                black_box(loss.predict(x, w).expect("valid arguments"));
            },
        ],
    );
    let mut three = || {
        let (z, gx, gw) = (&mut logits, &mut grad_features, &mut grad_weights);
        matmul(
            view_mut(z.view_mut()),
            Accum::Replace,
            view(x),
            view(w).transpose(),
            1.0,
            par,
        );
        matmul(
            view_mut(gx.view_mut()),
            Accum::Replace,
            view(z.view()),
            view(w),
            1.0,
            par,
        );
        matmul(
            view_mut(gw.view_mut()),
            Accum::Replace,
            view(z.view()).transpose(),
            view(x),
            1.0,
            par,
        );
    };
    let ours = |evaluation: &mut Evaluation<f32>| {
        loss.evaluate_into(x, w, &targets, evaluation)
            .expect("valid arguments");
    };
    let [products, full] = medians(
        case.repetitions,
        [&mut three, &mut || ours(&mut evaluation)],
    );
    let operations = 6.0 * case.rows as f64 * case.classes as f64 * case.dim as f64;
    let peak = peak();
    let mut again = || ours(&mut evaluation);
    let mut times = Vec::new();
    for _ in 0..2 {
        times.push(medians(case.repetitions / 2 + 1, [&mut again])[0]);
        times.push(one.install(|| medians(case.repetitions / 2 + 1, [&mut again])[0]));
    }
    let speedup = (times[1] + times[3]) / (times[0] + times[2]);
    println!(
        "case={} n={} classes={} dim={} ratio={:.2} forward_ratio={:.2} scores_ratio={:.2} predict_ratio={:.2} scratch_mib={} threads={threads} \
         peak_share={:.2} peak_gflops={:.0} seconds={full:.4} products_seconds={products:.4} speedup_over_one_thread={speedup:.2}",
        case.name,
        case.rows,
        case.classes,
        case.dim,
        full / products,
        forward / one_product,
        scores / one_product,
        best / one_product,
        evaluation.scratch_bytes() >> 20,
        operations / full / peak,
        peak / 1e9,
    );
    Ok(())
}

/// A job of one rank against the loss without ranks, over all classes and over a tenth of them.
fn one_rank(case: &Case) -> Result<(), Error> {
    let arrays = case.arrays()?;
    let (x, w) = (arrays.features.view(), arrays.weights.view());
    let (loss, targets) = (ArcFace::default(), Targets::new(&arrays.labels));
    let full = Sharded::new(&loss, Shards::new(case.classes)?, &Solo);
    let sampled = full.with_sampling(Sampling::new(0.1, 1)?);
    // Each makes its update in place, so that nothing of the size of W is written beside it.
    let mut steps = [arrays.weights.clone(), arrays.weights.clone(), w.to_owned()];
    let [first, second, third] = &mut steps;
    let mut outs = [Evaluation::new(), Evaluation::new(), Evaluation::new()];
    let [a, b, c] = &mut outs;
    let [plain, one, tenth] = medians(
        case.repetitions,
        [
            &mut || {
                loss.evaluate_streamed(x, first.view_mut(), &targets, a, &mut step)
                    .expect("valid arguments");
            },
            &mut || {
                full.evaluate_streamed(x, second.view_mut(), &targets, b, &mut step)
                    .expect("valid arguments");
            },
            &mut || {
                sampled
                    .evaluate_streamed(x, third.view_mut(), &targets, c, &mut step)
                    .expect("valid arguments");
            },
        ],
    );
    println!(
        "case={} one_rank_ratio={:.3} rate_0.1_speedup={:.2} seconds={plain:.4}",
        case.name,
        one / plain,
        one / tenth,
    );
    Ok(())
}

/// The update of a step.
fn step(mut block: ClassBlock<'_, f32>) {
    block.weights.scaled_add(-1e-6, &block.gradient);
}

/// The loss whose rows have two targets each.
const TWO_TARGETS: &str = "arcface with two targets";

/// Losses by their lines, one of each kind.
const LINES: [&str; 23] = [
    "softmax",
    "modified-softmax",
    "a-softmax:m=4,lambda=5",
    "normface:s=64,learned",
    "am-softmax",
    "cosface",
    "cosface:s=64,m=0.35,filter=0.4",
    "arcface",
    "combined:s=64,m2=0.3,m3=0.2",
    "adaface",
    "magface",
    "mv-softmax:s=64",
    "curricularface",
    "sphereface2",
    "sphereface2:arc",
    "uniface",
    "arcface+smoothing:epsilon=0.1",
    "mv-softmax:s=64+smoothing:epsilon=0.1",
    "arcface+subcenters:k=4+smoothing:epsilon=0.1",
    "arcface+focal",
    "arcface+subcenters:k=4",
    "arcface+intertopk:k=5,m=0.06",
    "cosface+intertopk:k=5,m=0.06,cosine",
];

fn every_loss(case: &Case) -> Result<(), Error> {
    let Arrays {
        features,
        weights,
        labels,
    } = case.arrays()?;
    let each = |value: f64| vec![value; case.classes];
    let mut losses: Vec<(String, Box<dyn MarginLoss<f32>>)> = vec![
        (
            "softmax with a bias".into(),
            Box::new(SoftmaxLoss::with_bias(each(0.0))?),
        ),
        (
            "arcface with class margins".into(),
            Box::new(ArcFace::default().with_class_margins(each(0.5))?),
        ),
        (
            "arcface with class priors".into(),
            Box::new(Composed::new(ArcFace::default()).with_class_priors(&each(1.0), 1.0)?),
        ),
        (TWO_TARGETS.into(), Box::new(ArcFace::default())),
    ];
    for line in LINES {
        let objective: Objective = line.parse()?;
        losses.push((line.into(), Box::new(objective.classifier().clone())));
    }
    let norm_face = NormFace::new(64.0)?;
    let (mut first, mut second) = (Evaluation::new(), Evaluation::new());
    for (name, loss) in &losses {
        // Sub-centers are rows of as many class weights.
        let classes = case.classes / loss.sub_centers();
        let labels: Vec<usize> = labels.iter().map(|label| label % classes).collect();
        let targets = Targets::new(&labels);
        let seconds: Vec<usize> = labels.iter().map(|label| (label + 1) % classes).collect();
        let asked = if name == TWO_TARGETS {
            targets.with_second(&seconds, 0.3)
        } else {
            targets
        };
        let [base, this] = medians(
            case.repetitions,
            [
                &mut || {
                    norm_face
                        .evaluate_into(features.view(), weights.view(), &targets, &mut first)
                        .expect("valid arguments");
                },
                &mut || {
                    loss.evaluate_into(features.view(), weights.view(), &asked, &mut second)
                        .expect("valid arguments");
                },
            ],
        );
        println!(
            "case={} loss={name:?} ratio_to_normface={:.3}",
            case.name,
            this / base
        );
    }
    Ok(())
}
