//! Published values of every loss on one small batch, in `f64` and `f32`, and the closed forms.
//!
//! The figures printed here are those that public implementations agree on, to twelve decimals. `reference/check_values.csv`
//! holds every entry of every gradient to twenty digits, from `reference/check_values.py`.

use margin_losses::{
    ASoftmax, AmSoftmax, ArcFace, CenterLoss, CombinedMargin, CosFace, Error, Float, Margin,
    MarginLoss, MarginSoftmax, ModifiedSoftmax, NormFace, PastPi, SoftmaxLoss, Targets,
};

use crate::support::{Batch, assert_close, assert_printed, wide, widen};

type Boxed<A> = Box<dyn MarginLoss<A>>;

fn loss<A: Float>(name: &str) -> Result<Boxed<A>, Error> {
    let arc_face = |past_pi| -> Result<Boxed<A>, Error> {
        Ok(Box::new(ArcFace::new(64.0, 0.5)?.with_past_pi(past_pi)))
    };
    let bias: Vec<f64> = (0..5).map(|class| f64::from(class) / 10.0).collect();
    Ok(match name {
        "softmax" => Box::new(SoftmaxLoss::new()),
        "softmax with bias" => Box::new(SoftmaxLoss::with_bias(bias)?),
        "modified softmax" => Box::new(ModifiedSoftmax::new()),
        "a-softmax 2" => Box::new(ASoftmax::new(2)?),
        "a-softmax 3" => Box::new(ASoftmax::new(3)?),
        "a-softmax 4" => Box::new(ASoftmax::new(4)?),
        "a-softmax 4 lambda 5" => Box::new(ASoftmax::new(4)?.with_lambda(5.0)?),
        "normface 1" => Box::new(NormFace::learned(1.0)?),
        "normface 10" => Box::new(NormFace::learned(10.0)?),
        "am-softmax 30 0.35" => Box::new(AmSoftmax::new(30.0, 0.35)?),
        "cosface 64 0.35" => Box::new(CosFace::new(64.0, 0.35)?),
        "cosface 64 0.4" => Box::new(CosFace::new(64.0, 0.4)?),
        "arcface 64 0.5" => arc_face(PastPi::Paper)?,
        "arcface 64 0.5 linear tail" => arc_face(PastPi::LinearTail)?,
        "arcface 64 0.5 smooth tail" => arc_face(PastPi::SmoothTail)?,
        "arcface 64 0.5 joined tail" => arc_face(PastPi::JoinedTail)?,
        "arcface 64 0.5 cosine tail" => arc_face(PastPi::CosineTail)?,
        "arcface 64 0.5 easy margin" => arc_face(PastPi::EasyMargin)?,
        "combined 64 1 0.3 0.2" => Box::new(CombinedMargin::new(64.0, 1.0, 0.3, 0.2)?),
        "combined 64 0.9 0.4 0.15" => Box::new(CombinedMargin::new(64.0, 0.9, 0.4, 0.15)?),
        "center" => Box::new(CenterLoss::new()),
        _ => panic!("{name} is in the table, but not here"),
    })
}

/// Name, then L, ‖∂X‖, ‖∂W‖, ∂X[0,0], ∂W[0,0] at the labels 0, 3, 2.
#[rustfmt::skip]
const WITHIN_PI: &[(&str, [f64; 5])] = &[
    ("softmax with bias", [1.290_717_238_235, 0.642_497_291_744, 0.769_859_247_940, -0.052_671_938_846, -0.150_052_818_182]),
    ("softmax", [1.264_743_220_997, 0.641_518_956_930, 0.757_097_523_495, -0.051_899_030_446, -0.122_908_287_053]),
    ("modified softmax", [1.214_790_872_846, 0.467_800_226_371, 0.453_218_925_284, -0.073_381_750_648, -0.004_306_760_371]),
    ("a-softmax 2", [1.905_652_442_065, 0.907_682_581_207, 0.788_714_833_697, -0.134_820_319_604, -0.004_221_248_471]),
    ("a-softmax 3", [2.806_693_262_055, 1.899_307_422_223, 1.770_395_717_726, -0.197_892_474_649, -0.003_582_235_553]),
    ("a-softmax 4", [3.671_321_163_878, 1.892_616_874_989, 1.492_483_114_649, -0.181_214_606_727, -0.003_192_653_975]),
    ("a-softmax 4 lambda 5", [1.565_802_827_704, 0.615_157_311_572, 0.555_935_922_316, -0.091_155_929_627, -0.004_384_473_343]),
    ("normface 1", [1.278_116_292_713, 0.305_542_851_895, 0.318_895_700_402, -0.019_126_003_259, -0.002_881_730_755]),
    ("normface 10", [3.200_684_144_489, 2.138_637_452_863, 3.169_136_224_347, -0.028_101_024_997, -0.003_707_431_067]),
    ("am-softmax 30 0.35", [17.560_689_071_338, 12.342_758_731_434, 14.623_361_085_031, -0.296_540_374_081, 0.005_757_258_287]),
    ("cosface 64 0.35", [37.462_158_843_694, 26.340_150_360_297, 31.203_538_201_719, -0.632_898_275_153, 0.012_322_315_802]),
    ("arcface 64 0.5", [40.862_342_232_821, 31.671_686_841_625, 33.259_684_635_203, -2.355_807_936_140, 0.021_156_589_092]),
    ("arcface 64 0.5 easy margin", [30.667_009_653_800, 32.262_756_989_196, 34.735_929_195_436, -2.355_807_936_140, 0.021_156_589_092]),
    ("combined 64 1 0.3 0.2", [42.679_754_765_847, 30.006_663_961_518, 32.836_390_269_925, -1.768_914_214_597, 0.018_147_273_894]),
    ("combined 64 0.9 0.4 0.15", [39.667_691_678_021, 28.628_054_292_571, 31.255_786_932_996, -1.554_523_338_013, 0.017_047_977_823]),
];

/// Name, then L, ‖∂X‖, ‖∂W‖ at the labels 2, 0, 3, whose angles are all above π − 0.5.
#[rustfmt::skip]
const PAST_PI: &[(&str, [f64; 3])] = &[
    ("modified softmax", [3.434_541_032_747, 0.894_036_820_154, 0.217_265_504_924]),
    ("a-softmax 4", [11.356_319_088_900, 4.556_438_674_534, 2.093_531_306_045]),
    ("a-softmax 4 lambda 5", [4.736_345_710_134, 1.505_543_851_057, 0.511_910_104_088]),
    ("cosface 64 0.35", [138.170_506_172_305, 14.640_872_310_056, 13.379_654_059_021]),
    ("arcface 64 0.5", [116.434_004_398_292, 16.258_849_162_501, 17.648_579_518_966]),
    ("arcface 64 0.5 linear tail", [131.112_123_407_640, 14.640_872_310_056, 13.379_654_059_021]),
    ("arcface 64 0.5 easy margin", [115.770_506_172_305, 14.640_872_310_056, 13.379_654_059_021]),
    ("arcface 64 0.5 smooth tail", [120.036_719_740_145, 12.819_903_482_067, 12.708_309_234_164]),
];

/// L, ∂X, ∂W and the gradient of the learnables.
fn evaluate<A: Float>(name: &str, labels: [usize; 3]) -> [Vec<f64>; 4] {
    let batch = Batch::<A>::reference(labels);
    let weights = if name == "center" {
        &batch.centers
    } else {
        &batch.weights
    };
    let evaluation = loss::<A>(name)
        .expect("in range")
        .evaluate(
            batch.features.view(),
            weights.view(),
            &Targets::new(&labels),
        )
        .expect("a good batch");
    [
        vec![widen(evaluation.loss())],
        wide(&evaluation.grad_features),
        wide(&evaluation.grad_weights),
        wide(&evaluation.grad_learnables),
    ]
}

fn length(vector: &[f64]) -> f64 {
    vector.iter().map(|v| v * v).sum::<f64>().sqrt()
}

#[test]
fn the_published_values_within_pi() {
    for (name, printed) in WITHIN_PI {
        let [loss, features, weights, _] = evaluate::<f64>(name, [0, 3, 2]);
        let actual = [
            loss[0],
            length(&features),
            length(&weights),
            features[0],
            weights[0],
        ];
        assert_printed(name, &actual, printed);
    }
}

#[test]
fn the_published_values_past_pi() {
    for (name, printed) in PAST_PI {
        let [loss, features, weights, _] = evaluate::<f64>(name, [2, 0, 3]);
        assert_printed(
            name,
            &[loss[0], length(&features), length(&weights)],
            printed,
        );
    }
}

#[test]
fn the_published_gradients_of_a_learned_scale() {
    for (name, printed) in [
        ("normface 1", -0.138_195_762_866),
        ("normface 10", 0.275_198_682_757),
    ] {
        let [.., learnables] = evaluate::<f64>(name, [0, 3, 2]);
        assert_printed(name, &learnables, &[printed]);
        assert_eq!(learnables.len(), 1);
    }
}

#[test]
fn the_published_values_of_the_center_loss() {
    let [loss, features, centers, _] = evaluate::<f64>("center", [0, 3, 2]);
    let printed = [1.153_984_757_625, 0.877_110_695_266, 0.877_110_695_266];
    assert_printed(
        "center",
        &[loss[0], length(&features), length(&centers)],
        &printed,
    );
}

/// Every entry of the table: its name, labels, and the four columns that [`evaluate`] gives.
fn table() -> Vec<(String, [usize; 3], [Vec<f64>; 4])> {
    fn numbers<T: core::str::FromStr<Err: core::fmt::Debug>>(column: &str) -> Vec<T> {
        column
            .split_whitespace()
            .map(|v| v.parse().expect("a number"))
            .collect()
    }
    include_str!("../reference/check_values.csv")
        .lines()
        .skip(1)
        .map(|line| {
            let columns: Vec<&str> = line.split(',').collect();
            let labels = numbers(columns[0]).try_into().expect("three labels");
            let values = [2, 3, 4, 5].map(|column| numbers(columns[column]));
            (columns[1].to_owned(), labels, values)
        })
        .collect()
}

fn every_entry<A: Float>(tolerance: f64) {
    let table = table();
    assert_eq!(table.len(), 42);
    for (name, labels, expected) in table {
        let actual = evaluate::<A>(&name, labels);
        let what = ["L", "∂X", "∂W"].map(|part| format!("{part} of {name} at {labels:?}"));
        for (what, (actual, expected)) in what.iter().zip(actual.iter().zip(&expected)) {
            assert_close(what, actual, expected, tolerance);
        }
        if !actual[3].is_empty() {
            assert_close(
                &format!("learnables of {name}"),
                &actual[3],
                &expected[3],
                tolerance,
            );
        }
    }
}

#[test]
fn every_entry_of_every_gradient_in_f64() {
    every_entry::<f64>(1e-10);
}

#[test]
fn every_entry_of_every_gradient_in_f32() {
    every_entry::<f32>(1e-5);
}

/// The scale's gradient of losses whose own scale is fixed, through the loss that can learn the scale of any margin.
#[test]
fn gradients_of_the_scale_of_every_margin() -> Result<(), Error> {
    fn of<M: Margin>(margin: M, scale: f64) -> Result<f64, Error> {
        let batch = Batch::<f64>::reference([0, 3, 2]);
        let loss = MarginSoftmax::learned(margin, scale)?;
        let targets = Targets::new(&batch.labels);
        let found = loss.evaluate(batch.features.view(), batch.weights.view(), &targets)?;
        Ok(found.grad_learnables[0])
    }
    let [paper, easy] =
        [PastPi::Paper, PastPi::EasyMargin].map(|rule| ArcFace::default().with_past_pi(rule));
    for (found, published) in [
        (of(AmSoftmax::default(), 30.0)?, 0.585_267_113_938),
        (of(CosFace::default(), 64.0)?, 0.585_346_219_761),
        (of(paper, 64.0)?, 0.638_474_087_707),
        (of(easy, 64.0)?, 0.479_172_016_160),
        (
            of(CombinedMargin::new(64.0, 1.0, 0.3, 0.2)?, 64.0)?,
            0.666_871_167_300,
        ),
        (
            of(CombinedMargin::new(64.0, 0.9, 0.4, 0.15)?, 64.0)?,
            0.619_807_680_242,
        ),
    ] {
        assert!(
            (found - published).abs() <= 1e-10 * published,
            "{found} is not {published}"
        );
    }
    Ok(())
}
