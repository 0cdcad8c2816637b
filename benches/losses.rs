//! Every loss, the loss alone and with all gradients, at three sizes; throughput in rows.
//!
//! ```sh
//! cargo bench --bench losses
//! cargo bench --bench losses -- ArcFace        # one loss
//! ```

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use margin_losses::ndarray::Array2;
use margin_losses::{
    ASoftmax, AmSoftmax, ArcFace, CenterLoss, CombinedMargin, CosFace, Error, Evaluation,
    JointLoss, MarginLoss, ModifiedSoftmax, NormFace, SoftmaxLoss, Targets, init,
};

/// Rows, classes, dimensions.
const SIZES: [(usize, usize, usize); 3] = [(64, 100, 64), (128, 1_000, 128), (256, 10_000, 512)];

fn losses(criterion: &mut Criterion) {
    for (rows, classes, dim) in SIZES {
        run(criterion, rows, classes, dim).expect("the arguments are valid");
    }
}

fn run(criterion: &mut Criterion, rows: usize, classes: usize, dim: usize) -> Result<(), Error> {
    let features: Array2<f32> = init::normal(rows, dim, 1.0, 1)?;
    let weights = init::class_weights(classes, dim, 2)?;
    let centers = init::class_weights(classes, dim, 3)?;
    let labels: Vec<usize> = (0..rows).map(|row| row * 7_919 % classes).collect();
    let targets = Targets::new(&labels);

    let losses: [(&str, Box<dyn MarginLoss<f32> + '_>); 10] = [
        (
            "Softmax",
            Box::new(SoftmaxLoss::with_bias(vec![0.0; classes])?),
        ),
        ("ModifiedSoftmax", Box::new(ModifiedSoftmax::new())),
        ("Center", Box::new(CenterLoss::new())),
        (
            "SoftmaxAndCenter",
            Box::new(JointLoss::new(SoftmaxLoss::new(), centers.view(), 0.003)?),
        ),
        ("ASoftmax", Box::new(ASoftmax::new(4)?.with_lambda(5.0)?)),
        ("NormFace", Box::new(NormFace::learned(20.0)?)),
        ("AmSoftmax", Box::new(AmSoftmax::default())),
        ("CosFace", Box::new(CosFace::default())),
        ("ArcFace", Box::new(ArcFace::default())),
        (
            "CombinedMargin",
            Box::new(CombinedMargin::new(64.0, 1.0, 0.3, 0.2)?),
        ),
    ];
    let mut group = criterion.benchmark_group(format!("{rows}x{classes}x{dim}"));
    group
        .throughput(Throughput::Elements(rows as u64))
        .sample_size(10);
    for (name, loss) in &losses {
        group.bench_function(BenchmarkId::new(*name, "forward"), |bencher| {
            bencher.iter(|| loss.forward(features.view(), weights.view(), &targets));
        });
        let mut evaluation = Evaluation::new();
        group.bench_function(BenchmarkId::new(*name, "gradients"), |bencher| {
            bencher.iter(|| {
                loss.evaluate_into(features.view(), weights.view(), &targets, &mut evaluation)
            });
        });
    }
    group.finish();
    Ok(())
}

criterion_group!(benches, losses);
criterion_main!(benches);
