//! What a checkpoint holds beside the network.

use crate::bridge::{self, Argument, Array2, ArrayView2, Objective};
use crate::element::{Element, tensor, with_array};
use crate::error::Error;
use burn::module::{Module, Param};
use burn::tensor::{DType, Device, Tensor};

/// What a training has beside its network: class weights and centers that are arrays, what the loss has learned, and its
/// running statistics.
///
/// It is a [`Module`], so that it is saved in burn's own record, alone or as a part of yours. Loaded and restored, a training
/// on the host route goes on with equal bits. Numbers are `f64`, so it belongs on a device that has these, as the CPU's do.
///
/// # Examples
///
/// ```
/// use burn::module::Module;
/// use burn::store::ModuleRecord;
/// use burn::tensor::Device;
/// use margin_losses_burn::Checkpoint;
/// use margin_losses_burn::margin_losses::ndarray::Array2;
/// use margin_losses_burn::margin_losses::{Objective, init};
///
/// let device = Device::flex();
/// let objective: Objective = "normface:s=7.5,learned".parse()?;
/// let (weights, centers): (Array2<f32>, Array2<f32>) = (init::class_weights(10, 4, 1)?, Array2::zeros((0, 0)));
/// let head = Checkpoint::new(&objective, weights.view(), centers.view(), &device);
/// let file = std::env::temp_dir().join("margin-losses-burn-doctest.bpk");
/// head.into_record().save(&file)?;
///
/// // Into a checkpoint of the same shapes.
/// let mut resumed: Objective = "normface:s=10,learned".parse()?;
/// let begun: Array2<f32> = Array2::zeros((10, 4));
/// let head = Checkpoint::new(&resumed, begun.view(), centers.view(), &device);
/// let head = head.try_load_record(ModuleRecord::load(&file)?)?;
/// head.restore(&mut resumed)?;
/// assert_eq!(resumed, objective);
/// assert_eq!(head.weights::<f32>()?, weights);
/// # std::fs::remove_file(file).ok();
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Module, Debug)]
pub struct Checkpoint {
    weights: Option<Param<Tensor<2>>>,
    centers: Option<Param<Tensor<2>>>,
    learnables: Option<Param<Tensor<1>>>,
    statistics: Option<Param<Tensor<1>>>,
}

impl Checkpoint {
    /// Of class weights and centers, C×d, and of what the loss itself holds. An array without entries is left out.
    #[must_use]
    pub fn new<A: Element>(
        objective: &Objective,
        weights: ArrayView2<'_, A>,
        centers: ArrayView2<'_, A>,
        device: &Device,
    ) -> Self {
        let matrix = |array: ArrayView2<'_, A>| {
            let entries: Vec<A> = array.iter().copied().collect();
            let shape = [array.nrows(), array.ncols()];
            (!entries.is_empty()).then(|| frozen(tensor(&entries, shape, device)))
        };
        let list = |numbers: &[f64]| {
            (!numbers.is_empty()).then(|| frozen(tensor(numbers, [numbers.len()], device)))
        };
        let [learnables, statistics] = bridge::kept(objective);
        Self {
            weights: matrix(weights),
            centers: matrix(centers),
            learnables: list(&learnables),
            statistics: list(&statistics),
        }
    }

    /// The class weights; none if they were left out.
    ///
    /// # Errors
    ///
    /// [`Error::ElementType`] if they are of another type.
    pub fn weights<A: Element>(&self) -> Result<Array2<A>, Error> {
        array(self.weights.as_ref(), Argument::ClassWeights)
    }

    /// The centers; none if they were left out.
    ///
    /// # Errors
    ///
    /// [`Error::ElementType`] if they are of another type.
    pub fn centers<A: Element>(&self) -> Result<Array2<A>, Error> {
        array(self.centers.as_ref(), Argument::Centers)
    }

    /// Puts what the loss holds back into it.
    ///
    /// # Errors
    ///
    /// [`Error::Loss`] if it was another loss, [`Error::Burn`] if its numbers cannot be read.
    pub fn restore(&self, objective: &mut Objective) -> Result<(), Error> {
        let learnables = numbers(self.learnables.as_ref())?;
        let statistics = numbers(self.statistics.as_ref())?;
        Ok(bridge::restore(objective, [&learnables, &statistics])?)
    }
}

/// A parameter that no optimiser moves.
fn frozen<const D: usize>(tensor: Tensor<D>) -> Param<Tensor<D>> {
    Param::from_tensor(tensor).set_require_grad(false)
}

fn array<A: Element>(
    param: Option<&Param<Tensor<2>>>,
    argument: Argument,
) -> Result<Array2<A>, Error> {
    match param {
        None => Ok(Array2::default((0, 0))),
        Some(param) => with_array(&param.val(), argument, |array| {
            Ok::<_, Error>(array.to_owned())
        }),
    }
}

fn numbers(param: Option<&Param<Tensor<1>>>) -> Result<Vec<f64>, Error> {
    let Some(param) = param else {
        return Ok(Vec::new());
    };
    let list = param.val().inner();
    if list.dtype() != DType::F64 {
        return Err(Error::Burn(format!(
            "numbers of the loss are {:?}, not F64",
            list.dtype()
        )));
    }
    list.try_into_vec_as::<f64>()
        .map_err(crate::element::unreadable)
}
