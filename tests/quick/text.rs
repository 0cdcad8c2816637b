//! Losses and rules as text: what is printed reads back, what is typed is understood, and what is not is explained.

use core::f64::consts::PI;

use margin_losses::{
    ASoftmax, AdaFace, AdaptiveFace, AmSoftmax, AnyLoss, ArcFace, CContrastive, CTriplet,
    CenterLoss, CombinedMargin, CosFace, CurricularFace, Error, JointLoss, MagFace, MarginLoss,
    MarginSoftmax, ModifiedSoftmax, MvSoftmax, NormFace, Objective, PastPi, Reduction, Request,
    SoftmaxLoss, SphereFace2, Targets, TurnedAngle, UniFace,
};
use ndarray::{Array2, array};
use proptest::prelude::*;

use crate::support::RULES;

fn read(text: &str) -> AnyLoss {
    text.parse()
        .unwrap_or_else(|error| panic!("{text}: {error}"))
}

fn refusal(text: &str) -> String {
    match text.parse::<AnyLoss>() {
        Ok(loss) => panic!("{text:?} was read as {loss}"),
        Err(error) => error.to_string(),
    }
}

/// Every loss with its canonical line.
fn lines() -> Vec<(AnyLoss, &'static str)> {
    let paper = ArcFace::default().with_past_pi(PastPi::Paper);
    let smooth = ArcFace::default().with_past_pi(PastPi::SmoothTail);
    let bias = vec![0.0, -0.5, 1e-9, 2e300];
    let trained = AdaFace::new(30.0, 0.3).and_then(|loss| {
        let loss = loss.with_concentration(0.5)?.with_momentum(1.0)?;
        let mut loss = loss
            .with_epsilon(0.01)?
            .with_turned_angle(TurnedAngle::Clipped);
        loss.set_statistics(&[23.5, 7.25])?;
        Ok(loss)
    });
    let trained = trained.unwrap();
    vec![
        (SoftmaxLoss::new().into(), "softmax"),
        (
            SoftmaxLoss::with_bias(bias).unwrap().into(),
            "softmax:bias=0/-0.5/1e-9/2e300",
        ),
        (ModifiedSoftmax::new().into(), "modified-softmax"),
        (CenterLoss::new().into(), "center"),
        (ASoftmax::new(4).unwrap().into(), "a-softmax:m=4,lambda=0"),
        (
            ASoftmax::new(3).unwrap().with_lambda(5.5).unwrap().into(),
            "a-softmax:m=3,lambda=5.5",
        ),
        (NormFace::new(20.0).unwrap().into(), "normface:s=20"),
        (
            NormFace::learned(10.0).unwrap().into(),
            "normface:s=10,learned",
        ),
        (CContrastive::default().into(), "c-contrastive:m=1"),
        (CTriplet::default().into(), "c-triplet:m=0.8"),
        (AmSoftmax::default().into(), "am-softmax:s=30,m=0.35"),
        (CosFace::default().into(), "cosface:s=64,m=0.35"),
        (ArcFace::default().into(), "arcface:s=64,m=0.5"),
        (paper.into(), "arcface:s=64,m=0.5,past_pi=paper"),
        (
            CombinedMargin::new(64.0, 0.9, 0.4, 0.15).unwrap().into(),
            "combined:s=64,m1=0.9,m2=0.4,m3=0.15",
        ),
        (
            SphereFace2::default().into(),
            "sphereface2:s=40,m=0.4,t=3,lambda=0.7,b=0",
        ),
        (
            SphereFace2::arc(32.0, 0.15).unwrap().undivided().into(),
            "sphereface2:s=32,m=0.15,t=3,lambda=0.7,b=0,arc,undivided",
        ),
        (
            AdaptiveFace::new(30.0, vec![0.25, 1e-5]).unwrap().into(),
            "adaptiveface:s=30,m=0.25/1e-5,lambda=70",
        ),
        (
            AdaptiveFace::new(16.0, vec![0.5])
                .and_then(|loss| loss.with_lambda(0.0))
                .unwrap()
                .into(),
            "adaptiveface:s=16,m=0.5/,lambda=0",
        ),
        (UniFace::default().into(), "uniface:s=64,m=0.4,lambda=1,b=0"),
        (
            AdaFace::default().into(),
            "adaface:s=64,m=0.4,h=0.333,alpha=0.01",
        ),
        (
            trained.into(),
            "adaface:s=30,m=0.3,h=0.5,alpha=1,epsilon=0.01,angle=clipped,mean=23.5,deviation=7.25",
        ),
        (
            MagFace::default().into(),
            "magface:s=64,l_m=0.45,u_m=0.8,l_a=10,u_a=110,lambda_g=35",
        ),
        (
            MagFace::default().with_past_pi(PastPi::EasyMargin).into(),
            "magface:s=64,l_m=0.45,u_m=0.8,l_a=10,u_a=110,lambda_g=35,past_pi=easy-margin",
        ),
        (
            CosFace::default().with_class_filter(0.4).unwrap().into(),
            "cosface:s=64,m=0.35,filter=0.4",
        ),
        (
            smooth.with_class_filter(-0.5).unwrap().into(),
            "arcface:s=64,m=0.5,past_pi=smooth-tail,filter=-0.5",
        ),
        (
            smooth
                .with_class_filter(0.5)
                .unwrap()
                .with_class_margins(vec![0.1, 0.2])
                .unwrap()
                .into(),
            "arcface:s=64,m=0.1/0.2,past_pi=smooth-tail,filter=0.5",
        ),
        (
            CurricularFace::default().into(),
            "curricularface:s=64,m=0.5",
        ),
        (
            CurricularFace::new(32.0, 0.4)
                .unwrap()
                .with_past_pi(PastPi::LinearTail)
                .with_momentum(0.99)
                .unwrap()
                .with_t(-0.25)
                .unwrap()
                .into(),
            "curricularface:s=32,m=0.4,past_pi=linear-tail,momentum=0.99,t=-0.25",
        ),
        (MvSoftmax::default().into(), "mv-softmax:s=32,m=0.35,t=0.2"),
        (
            MvSoftmax::arc(16.0, 0.5, 0.25)
                .unwrap()
                .with_fixed_weights(true)
                .with_easy_margin(true)
                .into(),
            "mv-softmax:s=16,m=0.5,t=0.25,arc,fixed,easy",
        ),
        (
            AmSoftmax::default()
                .with_class_margins(vec![0.1, 0.35])
                .unwrap()
                .into(),
            "am-softmax:s=30,m=0.1/0.35",
        ),
        (
            CosFace::default()
                .with_class_margins(vec![0.25])
                .unwrap()
                .into(),
            "cosface:s=64,m=0.25/",
        ),
        (
            smooth
                .with_class_margins(vec![0.1, 0.0, 1e-5])
                .unwrap()
                .into(),
            "arcface:s=64,m=0.1/0/1e-5,past_pi=smooth-tail",
        ),
    ]
}

#[test]
fn every_loss_has_its_line() {
    let all = lines();
    for (loss, line) in &all {
        assert_eq!(loss.to_string(), *line);
        assert_eq!(read(line), *loss);
    }
    for name in AnyLoss::NAMES {
        // Margins by class are written under the loss's own name.
        let name = name.strip_prefix("varying-").unwrap_or(name);
        let starts_so = |line: &str| line.split(':').next() == Some(name);
        assert!(all.iter().any(|(_, line)| starts_so(line)), "{name}");
    }
}

#[test]
fn papers_are_the_defaults() {
    assert_eq!(read("arcface"), ArcFace::default().into());
    assert_eq!(read("cosface"), CosFace::default().into());
    assert_eq!(read("mv-softmax"), MvSoftmax::default().into());
    assert_eq!(
        read("mv-softmax:arc"),
        MvSoftmax::arc(32.0, 0.5, 0.2).unwrap().into()
    );
    assert_eq!(read("am-softmax"), AmSoftmax::default().into());
    assert_eq!(read("a-softmax"), ASoftmax::new(4).unwrap().into());
    assert_eq!(
        read("arcface:m=0.3"),
        ArcFace::new(64.0, 0.3).unwrap().into()
    );
    let combined = CombinedMargin::new(64.0, 1.0, 0.3, 0.0).unwrap();
    assert_eq!(read("combined:m2=0.3"), combined.into());
}

#[test]
fn variants_are_understood() {
    let expected = ArcFace::new(32.0, 0.5)
        .unwrap()
        .with_past_pi(PastPi::LinearTail);
    for text in [
        "arcface:s=32,past_pi=linear-tail",
        "arcface(s=32, m=0.5, past_pi=linear-tail)",
        " ArcFace ( scale = 3.2e1 , margin = 0.5 , past-pi = LinearTail ) ",
        "arc_face:past_pi=LINEAR_TAIL,m=.5,s=32",
    ] {
        assert_eq!(read(text), expected.into(), "{text}");
        assert_eq!(text.parse::<ArcFace>(), Ok(expected), "{text}");
    }
    for text in [
        "modified",
        "Modified()",
        "modified-softmax",
        "ModifiedSoftmax",
    ] {
        assert_eq!(read(text), ModifiedSoftmax::new().into(), "{text}");
    }
    for text in ["s=learned", "s=10,learned", "learned", "scale=Learned"] {
        let loss = NormFace::learned(10.0).unwrap();
        assert_eq!(read(&format!("normface:{text}")), loss.into(), "{text}");
    }
    for text in ["softmax", "softmax:", "softmax()", "Softmax( )"] {
        assert_eq!(read(text), SoftmaxLoss::new().into(), "{text}");
    }
    for (text, learned) in [
        ("learned", true),
        ("learned=true", true),
        ("learned=false", false),
    ] {
        let loss: NormFace = format!("normface:s=10,{text}").parse().unwrap();
        assert_eq!(loss.is_learned(), learned, "{text}");
    }
}

#[test]
fn what_cannot_be_read_is_explained() {
    let names = AnyLoss::NAMES.join(", ");
    for (text, message) in [
        ("arcfase", format!("there is no loss \"arcfase\", but there are {names}")),
        ("", format!("there is no loss \"\", but there are {names}")),
        ("cosface:k=1", "cosface has no parameter \"k\", but it has s, m, filter".into()),
        ("center:m=1", "center has no parameter \"m\", and none at all".into()),
        ("normface", "normface needs the parameter s, as in normface:s=20 or normface:s=learned".into()),
        ("arcface:s=big", "s is \"big\", but must be a number".into()),
        ("arcface:s", "s is \"\", but must be a number".into()),
        ("arcface:s=1,scale=2", "s is \"scale\", but must be given once".into()),
        ("a-softmax:m=4.5", "m is \"4.5\", but must be a whole number".into()),
        ("a-softmax:m=-4", "m is \"-4\", but must be a whole number".into()),
        ("normface:s=1,learned=maybe", "learned is \"maybe\", but must be true or false".into()),
        ("softmax:bias=0/x", "bias is \"0/x\", but must be one number for each class, as in 0/0.5/-1".into()),
        (
            "arcface:past_pi=clamp",
            "there is no rule past pi \"clamp\", but there are cosine-tail, paper, linear-tail, joined-tail, smooth-tail, \
             easy-margin"
                .into(),
        ),
        (
            "arcface:m=0.1/x",
            "m is \"0.1/x\", but must be one margin for each class, as in 0.1/0.2/0.3".into(),
        ),
        ("cosface:m=0.1//0.2", "m is \"0.1//0.2\", but must be one margin for each class, as in 0.1/0.2/0.3".into()),
        ("cosface:m=/", "m is \"/\", but must be one margin for each class, as in 0.1/0.2/0.3".into()),
        ("varying-cosface", "cosface needs the parameter m, as in m=0.1/0.2/0.3, one margin for each class".into()),
        ("adaptiveface", "adaptiveface needs the parameter m, as in m=0.1/0.2/0.3, one margin for each class".into()),
        ("adaptiveface:m=0.1/1.5", "class margins entry 1 is 1.5, but must lie in [0, 1]".into()),
        ("combined:m2=0.1/0.2", "m2 is \"0.1/0.2\", but must be a number".into()),
        // What is read but out of range has the message of the constructor.
        ("arcface:s=-1", "scale is -1, but must lie in [1e-6, 1e6]".into()),
        ("arcface:m=nan", "margin is NaN, but must lie in [0, pi) radians".into()),
        // Between pi and what may be degrees lies the m of A-Softmax.
        ("arcface:m=4", "margin is 4, but must lie in [0, pi) radians".into()),
        (
            "arcface:m=28.6",
            "margin is 28.6, but must lie in [0, pi) radians; 28.6 degrees are 0.4992 radians".into(),
        ),
        (
            "combined:m2=30",
            "m2 is 30, but must lie in [0, pi) radians; 30 degrees are 0.5236 radians".into(),
        ),
        ("cosface:filter=1.5", "filter is 1.5, but must lie in [-1, 1]".into()),
        ("curricularface:t=1.5", "t is 1.5, but must lie in [-1, 1]".into()),
        ("curricularface:momentum=2", "momentum is 2, but must lie in [0, 1]".into()),
        ("mv-softmax:t=-1", "t is -1, but must lie in [0, 100]".into()),
        ("mv-softmax:m=3", "margin is 3, but must lie in [0, 2]".into()),
        ("mv-softmax:arc,m=4", "margin is 4, but must lie in [0, pi) radians".into()),
        ("cosface:m=28.6", "margin is 28.6, but must lie in [0, 2]".into()),
        (
            "softmax+center",
            "loss is \"softmax+center\", but must be one loss here, without a term; what is joined is an Objective".into(),
        ),
        (
            "arcface:m=0.1/28.6",
            "class margins entry 1 is 28.6, but must lie in [0, pi) radians; 28.6 degrees are 0.4992 radians".into(),
        ),
        ("softmax:bias=inf", "bias entry 0 is a NaN or an infinity".into()),
    ] {
        assert_eq!(refusal(text), message, "{text}");
    }
    for text in [
        "arcface(s=64",
        "arcface(s=64)x",
        "arcface:s=64,",
        "arcface:,",
        "arcface:=1",
        "arcface,s=64",
        "s=64",
    ] {
        assert_eq!(
            refusal(text),
            format!(
                "loss is {text:?}, but must be a name and its parameters, as in arcface:s=64,m=0.5"
            )
        );
    }
    // One loss refuses the others' names.
    let message = "cosface".parse::<ArcFace>().unwrap_err().to_string();
    assert_eq!(
        message,
        "there is no loss \"cosface\", but there is arcface"
    );
}

#[test]
fn rules_read_back() {
    for rule in RULES {
        assert_eq!(rule.to_string().parse(), Ok(rule));
        assert_eq!(format!("{rule:?}").parse(), Ok(rule));
    }
    for reduction in [
        Reduction::Mean,
        Reduction::BatchMean,
        Reduction::WeightedMean,
        Reduction::Sum,
        Reduction::None,
    ] {
        assert_eq!(reduction.to_string().parse(), Ok(reduction));
        assert_eq!(format!("{reduction:?}").parse(), Ok(reduction));
    }
    assert_eq!(
        format!("{:>6}|{:<5}|", Reduction::Mean, Reduction::Sum),
        "  mean|sum  |"
    );
    assert_eq!(
        "max".parse::<Reduction>().unwrap_err().to_string(),
        "there is no reduction \"max\", but there are mean, batch-mean, weighted-mean, sum, none"
    );
}

#[test]
fn center_loss_is_joined_in_text() {
    let objective = |loss: AnyLoss| Objective::new(loss).unwrap();
    let softmax = || objective(SoftmaxLoss::new().into());
    let joined = |lambda| softmax().with_center(lambda).unwrap();
    for (text, expected) in [
        ("softmax", softmax()),
        ("softmax+center", joined(0.003)),
        ("softmax+center:lambda=0.01", joined(0.01)),
        ("Softmax() + Center( lambda = 1e-2 )", joined(0.01)),
        ("softmax+center:lambda=1e+3", joined(1000.0)),
        ("softmax+center:lambda=0", joined(0.0)),
        (
            "softmax:bias=1e+3/+2+center",
            objective(SoftmaxLoss::with_bias(vec![1e3, 2.0]).unwrap().into())
                .with_center(0.003)
                .unwrap(),
        ),
        (
            "arcface:s=1e+1",
            objective(ArcFace::new(10.0, 0.5).unwrap().into()),
        ),
    ] {
        let found: Objective = text
            .parse()
            .unwrap_or_else(|error| panic!("{text}: {error}"));
        assert_eq!(found, expected, "{text}");
        assert_eq!(found.to_string().parse(), Ok(found), "{text}");
    }
    assert_eq!(joined(0.01).to_string(), "softmax+center:lambda=0.01");

    let alone = Error::NoClassifier.to_string();
    for (text, message) in [
        ("center", alone.as_str()),
        ("center+center", &alone),
        (
            "softmax+triplet",
            "there is no term \"triplet\", but there are subcenters, smoothing,",
        ),
        (
            "softmax+center+center",
            "term is \"center\", but must be given once",
        ),
        (
            "softmax+center:alpha=0.5",
            "center has no parameter \"alpha\", but it has lambda",
        ),
        (
            "softmax+center:lambda=-1",
            "lambda is -1, but must be non-negative and finite",
        ),
        (
            "softmax+center:lambda=big",
            "lambda is \"big\", but must be a number",
        ),
        (
            "normface+center",
            "normface needs the parameter s, as in normface:s=20 or normface:s=learned",
        ),
        ("+center", "there is no loss \"\", but there are softmax,"),
        (
            "softmax+",
            "there is no loss \"softmax+\", but there are softmax,",
        ),
    ] {
        let found = text.parse::<Objective>().unwrap_err().to_string();
        assert!(found.starts_with(message), "{text}: {found}");
    }
    assert_eq!(Objective::new(CenterLoss::new()), Err(Error::NoClassifier));
}

/// It is the joint loss, or the classifier alone, which then asks for no centers.
#[test]
fn an_objective_is_evaluated_over_the_callers_centers() {
    let x = array![[0.3, -1.0, 0.8], [2.0, 0.1, -0.4]];
    let w = array![[1.0, 0.2, 0.1], [-0.5, 0.6, 1.0]];
    let centers = array![[0.5, 0.5, 0.0], [1.0, -1.0, 0.25]];
    let targets = Targets::new(&[1, 0]);
    let evaluated = |loss: &dyn MarginLoss<f64>| {
        let out = loss.evaluate(x.view(), w.view(), &targets).unwrap();
        (out.forward, out.grad_features, out.grad_centers)
    };
    let mut any: AnyLoss = "normface:s=7,learned".parse().unwrap();

    let mut joined: Objective = "normface:s=7,learned+center:lambda=0.5".parse().unwrap();
    let expected = JointLoss::new(&mut any, centers.view(), 0.5).unwrap();
    assert_eq!(
        evaluated(&joined.over_centers(centers.view())),
        evaluated(&expected)
    );
    joined.set_learnables(&[8.0]).unwrap();
    assert_eq!(joined.to_string(), "normface:s=8,learned+center:lambda=0.5");

    let mut plain: Objective = "normface:s=7,learned".parse().unwrap();
    let none = Array2::zeros((0, 0));
    assert_eq!(evaluated(&plain.over_centers(none.view())), evaluated(&any));
}

/// A loss of one's own that says nothing of itself.
#[derive(Debug)]
struct Own;

impl MarginLoss<f64> for Own {
    fn run(&self, _: Request<'_, f64>) -> Result<(), Error> {
        Err(Error::NoScores)
    }
}

#[test]
fn losses_behind_pointers_are_printed() {
    for (loss, line) in lines() {
        let boxed: Box<dyn MarginLoss<f64>> = Box::new(loss);
        assert_eq!(boxed.to_string(), line);
        // And behind one more.
        let boxed: Box<dyn MarginLoss<f64>> = Box::new(boxed);
        assert_eq!(boxed.to_string(), line);
    }
    let boxed: Box<dyn MarginLoss<f64>> = Box::new(Own);
    assert_eq!(boxed.to_string(), "Own");

    // A log has no use for a million numbers.
    let many = SoftmaxLoss::with_bias(vec![0.25; 1_000_000]).unwrap();
    let boxed: Box<dyn MarginLoss<f64>> = Box::new(AnyLoss::from(many));
    assert_eq!(boxed.to_string(), "softmax:bias=(1000000 numbers)");

    let centers = Array2::<f64>::from_elem((3, 2), 0.123_456);
    let joint = JointLoss::new(SoftmaxLoss::new(), centers.view(), 0.003).unwrap();
    assert_eq!(joint.to_string(), "softmax+center:lambda=0.003");
    assert_eq!(
        format!("{joint:?}"),
        "JointLoss { classifier: SoftmaxLoss { bias: None }, centers: 3 × 2, lambda: 0.003 }"
    );
    let own = JointLoss::new(Own, centers.view(), 0.5).unwrap();
    assert_eq!(own.to_string(), "Own+center:lambda=0.5");
    let boxed: Box<dyn MarginLoss<f64> + '_> = Box::new(own);
    assert_eq!(boxed.to_string(), "Own+center:lambda=0.5");

    let fixed = MarginSoftmax::new(CosFace::new(16.0, 0.35).unwrap(), 16.0).unwrap();
    let line = "margin-softmax(CosFace { scale: 16.0, margin: 0.35, class_filter: None }, s=16)";
    assert_eq!(fixed.to_string(), line);
    let learned = MarginSoftmax::learned(CosFace::new(16.0, 0.35).unwrap(), 16.0).unwrap();
    let boxed: Box<dyn MarginLoss<f64>> = Box::new(learned);
    assert_eq!(boxed.to_string(), line.replace(')', ", learned)"));
}

#[test]
fn debug_is_short() {
    let learned = NormFace::learned(10.0).unwrap();
    assert_eq!(format!("{learned:?}"), "NormFace { scale: Learned(10.0) }");
    let own = MarginSoftmax::new(CosFace::new(16.0, 0.35).unwrap(), 16.0).unwrap();
    assert_eq!(
        format!("{own:?}"),
        "MarginSoftmax { margin: CosFace { scale: 16.0, margin: 0.35, class_filter: None }, scale: Fixed(16.0) }"
    );
    let few = SoftmaxLoss::with_bias(vec![0.0, 0.5]).unwrap();
    assert_eq!(format!("{few:?}"), "SoftmaxLoss { bias: Some([0, 0.5]) }");
    let many = SoftmaxLoss::with_bias(vec![0.25; 1_000_000]).unwrap();
    assert!(format!("{many:?}").len() < 200);
}

/// The enum passes everything on: values, gradients, learnables.
#[test]
fn any_loss_is_the_loss() {
    let x = array![[0.3, -1.0, 0.8], [2.0, 0.1, -0.4]];
    let w = array![
        [1.0, 0.2, 0.1],
        [-0.5, 0.6, 1.0],
        [0.3, -0.9, 0.2],
        [0.1, 0.1, -1.0]
    ];
    let targets = Targets::new(&[2, 0]);
    let mut own = NormFace::learned(7.0).unwrap();
    let mut any = AnyLoss::from(own);
    for _ in 0..2 {
        let (expected, found) = (
            own.evaluate(x.view(), w.view(), &targets).unwrap(),
            any.evaluate(x.view(), w.view(), &targets).unwrap(),
        );
        assert_eq!(expected.forward, found.forward);
        assert_eq!(expected.grad_features, found.grad_features);
        assert_eq!(expected.grad_weights, found.grad_weights);
        assert_eq!(expected.grad_learnables, found.grad_learnables);
        assert_eq!(found.grad_learnables.len(), 1);
        let forward = any.forward(x.view(), w.view(), &targets).unwrap();
        assert_eq!(forward.loss, found.loss());

        let next = [own.scale() + 1.0];
        MarginLoss::<f64>::set_learnables(&mut own, &next).unwrap();
        MarginLoss::<f64>::set_learnables(&mut any, &next).unwrap();
        assert_eq!(MarginLoss::<f64>::learnables(&any), next);
    }
    assert_eq!(any, own.into());

    let mut streamed = w.clone();
    let mut evaluation = margin_losses::Evaluation::new();
    any.evaluate_streamed(
        x.view(),
        streamed.view_mut(),
        &targets,
        &mut evaluation,
        &mut |mut block| block.weights -= &block.gradient,
    )
    .unwrap();
    let whole = any.evaluate(x.view(), w.view(), &targets).unwrap();
    assert_eq!(streamed, &w - &whole.grad_weights);
}

/// Any finite number, tiny and huge ones included.
fn finite() -> impl Strategy<Value = f64> {
    prop::num::f64::NORMAL | prop::num::f64::SUBNORMAL | prop::num::f64::ZERO
}

fn loss() -> impl Strategy<Value = AnyLoss> {
    let scale = (-6.0..6.0_f64).prop_map(|exponent| 10_f64.powf(exponent).clamp(1e-6, 1e6));
    let biased = prop::collection::vec(finite(), 1..20)
        .prop_map(|bias| SoftmaxLoss::with_bias(bias).unwrap().into());
    let annealed = (1..=1000_u32, finite()).prop_map(|(m, lambda)| {
        let loss = ASoftmax::new(m).unwrap();
        loss.with_lambda(lambda.abs()).unwrap().into()
    });
    let norm_face = (scale.clone(), any::<bool>()).prop_map(|(s, learned)| {
        let new = if learned {
            NormFace::learned
        } else {
            NormFace::new
        };
        new(s).unwrap().into()
    });
    let am = (scale.clone(), 0.0..=2.0).prop_map(|(s, m)| AmSoftmax::new(s, m).unwrap().into());
    let cos = (scale.clone(), 0.0..=2.0).prop_map(|(s, m)| CosFace::new(s, m).unwrap().into());
    let arc = (scale.clone(), 0.0..PI, 0..4_usize).prop_map(|(s, m, rule)| {
        let loss = ArcFace::new(s, m).unwrap();
        loss.with_past_pi(RULES[rule]).into()
    });
    let combined = (scale, 1e-9..=1000.0, 0.0..PI, 0.0..=2.0)
        .prop_map(|(s, m1, m2, m3)| CombinedMargin::new(s, m1, m2, m3).unwrap().into());
    prop_oneof![biased, annealed, norm_face, am, cos, arc, combined]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4096))]

    /// To the last bit of every parameter.
    #[test]
    fn what_is_printed_reads_back(loss in loss(), lambda in finite()) {
        let line = loss.to_string();
        prop_assert_eq!(&read(&line), &loss);
        prop_assert!(line.len() < 600 && !line.contains([' ', '(', ')', '\'', '"', ';', '*', '&', '|']));
        let call = match line.split_once(':') {
            None => format!("{line}()"),
            Some((name, list)) => format!("{name}({})", list.replace(',', ", ")),
        };
        prop_assert_eq!(&read(&call), &loss);

        let objective = Objective::new(loss).unwrap().with_center(lambda.abs()).unwrap();
        prop_assert_eq!(objective.to_string().parse(), Ok(objective));
    }

    /// Whatever is typed, there is an answer.
    #[test]
    fn nothing_typed_panics(text in "\\PC{0,40}") {
        let _ = text.parse::<AnyLoss>();
        let _ = text.parse::<Objective>();
        let _ = format!("softmax+{text}").parse::<Objective>();
        let _ = format!("softmax+center:{text}").parse::<Objective>();
        let _ = format!("arcface:{text}").parse::<AnyLoss>();
        let _ = format!("softmax({text})").parse::<AnyLoss>();
    }
}
