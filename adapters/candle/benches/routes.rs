//! Both routes beside the core and candle's own autograd of the plain formula:
//!
//! ```sh
//! cargo bench --bench routes
//! ```

#[path = "../../shared/routes.rs"]
mod routes;
#[allow(dead_code)]
#[path = "../tests/adapter/support.rs"]
mod support;

use candle_core::Var;
use margin_losses::ndarray::Array2;
use margin_losses::{ArcFace, Evaluation, MarginLoss, PastPi, Targets, init};
use margin_losses_candle::{DeviceLoss, HostLoss};
use routes::{CLASSES, DIM, ROWS};

fn main() {
    routes::run(&[
        ("the core, streamed", core),
        ("host route, streamed", streamed),
        ("host route, W a variable", variable),
        ("device route", device),
        ("device route, in blocks of 8 MiB", blocks),
        ("autograd of the plain formula", autograd),
    ]);
}

fn features() -> Array2<f32> {
    init::normal(ROWS, DIM, 1.0, 1).expect("memory")
}

fn weights() -> Array2<f32> {
    init::class_weights(CLASSES, DIM, 2).expect("memory")
}

fn labels() -> Vec<usize> {
    (0..ROWS).map(|row| (37 * row) % CLASSES).collect()
}

fn loss() -> ArcFace {
    let loss = ArcFace::new(32.0, 0.5).expect("in range");
    loss.with_past_pi(PastPi::Paper)
}

fn core() -> Box<dyn FnMut()> {
    let (x, mut w, labels) = (features(), weights(), labels());
    let mut memory = Evaluation::<f32>::new();
    Box::new(move || {
        let targets = Targets::new(&labels);
        let mut update = |mut block: margin_losses::ClassBlock<'_, f32>| {
            block.weights.scaled_add(-0.01, &block.gradient);
        };
        loss()
            .evaluate_streamed(x.view(), w.view_mut(), &targets, &mut memory, &mut update)
            .expect("good input");
    })
}

fn streamed() -> Box<dyn FnMut()> {
    let (x, mut w, labels) = (support::var(&features()), weights(), labels());
    let mut memory = Evaluation::<f32>::new();
    Box::new(move || {
        let loss = HostLoss::new(&loss(), &mut memory)
            .evaluate_streamed(
                &x,
                w.view_mut(),
                &Targets::new(&labels),
                &mut |mut block| {
                    block.weights.scaled_add(-0.01, &block.gradient);
                },
            )
            .expect("good input");
        assert!(loss.backward().expect("a graph").get(&x).is_some());
    })
}

/// One step with both gradients, and no update.
fn step(
    evaluate: impl Fn(&Var, &Var, &[usize]) -> margin_losses_candle::Loss + 'static,
) -> Box<dyn FnMut()> {
    let (x, w, labels) = (
        support::var(&features()),
        support::var(&weights()),
        labels(),
    );
    Box::new(move || {
        let grads = evaluate(&x, &w, &labels).backward(&w).expect("a graph");
        assert!(grads.get(&x).is_some() && grads.get(&w).is_some());
    })
}

fn variable() -> Box<dyn FnMut()> {
    let memory = std::cell::RefCell::new(Evaluation::<f32>::new());
    step(move |x, w, labels| {
        let mut memory = memory.borrow_mut();
        let out = HostLoss::new(&loss(), &mut memory).evaluate(x, w, &Targets::new(labels));
        out.expect("good input")
    })
}

fn device() -> Box<dyn FnMut()> {
    let loss = DeviceLoss::new(loss()).expect("a margin");
    step(move |x, w, labels| {
        let targets = Targets::<f32>::new(labels);
        loss.evaluate(x, w, &targets).expect("good input")
    })
}

fn blocks() -> Box<dyn FnMut()> {
    let loss = DeviceLoss::new(loss())
        .expect("a margin")
        .with_scratch_limit(1 << 23);
    step(move |x, w, labels| {
        let targets = Targets::<f32>::new(labels);
        loss.evaluate(x, w, &targets).expect("good input")
    })
}

fn autograd() -> Box<dyn FnMut()> {
    let (x, w, labels) = (
        support::var(&features()),
        support::var(&weights()),
        labels(),
    );
    Box::new(move || {
        let loss = support::plain([&x, &w], &labels, [32.0, 0.5, 0.0]).expect("good input");
        let grads = loss.backward().expect("a graph");
        assert!(grads.get(&x).is_some() && grads.get(&w).is_some());
    })
}
