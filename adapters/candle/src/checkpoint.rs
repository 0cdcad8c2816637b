//! What a checkpoint holds beside the network.

use std::collections::HashMap;

use crate::bridge::{self, Argument, Array2, Objective};
use crate::element::{Element, tensor, with_array};
use crate::error::Error;
use candle_core::{DType, Device, Tensor};

const WEIGHTS: &str = "head.weights";
const CENTERS: &str = "head.centers";
const LEARNABLES: &str = "head.learnables";
const STATISTICS: &str = "head.statistics";

/// What a training has beside its network: class weights and centers that are arrays, what the loss has learned, and its running
/// statistics.
///
/// As [`tensors`](Self::tensors) it goes into candle's own format, safetensors, beside the variables of the network. Loaded
/// and restored, a training on the host route goes on with equal bits.
///
/// # Examples
///
/// ```
/// use candle_core::{Device, safetensors};
/// use margin_losses_candle::Checkpoint;
/// use margin_losses_candle::margin_losses::{Objective, init};
///
/// let objective: Objective = "normface:s=7.5,learned".parse()?;
/// let mut head = Checkpoint::<f32>::new(&objective);
/// head.weights = init::class_weights(10, 4, 1)?;
///
/// let file = std::env::temp_dir().join("margin-losses-candle-doctest.safetensors");
/// let network = std::collections::HashMap::new();          // your VarMap's variables
/// let mut tensors = head.tensors()?;
/// tensors.extend(network);
/// safetensors::save(&tensors, &file)?;
///
/// let mut resumed: Objective = "normface:s=10,learned".parse()?;
/// let loaded = Checkpoint::from_tensors(&safetensors::load(&file, &Device::Cpu)?)?;
/// loaded.restore(&mut resumed)?;
/// assert_eq!((resumed, loaded), (objective, head));
/// # std::fs::remove_file(file).ok();
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Checkpoint<A> {
    /// The class weights, C×d, if they are an array. As a variable they are among those of the network.
    pub weights: Array2<A>,
    /// The centers, C×d, if there is center loss.
    pub centers: Array2<A>,
    /// What the loss has learned.
    pub learnables: Vec<f64>,
    /// The running statistics.
    pub statistics: Vec<f64>,
}

impl<A: Element> Checkpoint<A> {
    /// What the loss itself holds; class weights and centers are yours to add.
    #[must_use]
    pub fn new(objective: &Objective) -> Self {
        let [learnables, statistics] = bridge::kept(objective);
        Self {
            weights: Array2::default((0, 0)),
            centers: Array2::default((0, 0)),
            learnables,
            statistics,
        }
    }

    /// Puts what the loss holds back into it.
    ///
    /// # Errors
    ///
    /// [`Error::Loss`] if it was another loss.
    pub fn restore(&self, objective: &mut Objective) -> Result<(), Error> {
        let kept = [self.learnables.as_slice(), self.statistics.as_slice()];
        Ok(bridge::restore(objective, kept)?)
    }

    /// The tensors of a file, whose names begin with `head.`; what is empty is left out.
    ///
    /// # Errors
    ///
    /// Those of candle.
    pub fn tensors(&self) -> Result<HashMap<String, Tensor>, Error> {
        let mut tensors = HashMap::new();
        for (name, array) in [(WEIGHTS, &self.weights), (CENTERS, &self.centers)] {
            if !array.is_empty() {
                let entries: Vec<A> = array.iter().copied().collect();
                let shape = [array.nrows(), array.ncols()];
                tensors.insert(name.to_owned(), tensor(&entries, shape, &Device::Cpu)?);
            }
        }
        for (name, numbers) in [
            (LEARNABLES, &self.learnables),
            (STATISTICS, &self.statistics),
        ] {
            if !numbers.is_empty() {
                let numbers = Tensor::new(numbers.as_slice(), &Device::Cpu)?;
                tensors.insert(name.to_owned(), numbers);
            }
        }
        Ok(tensors)
    }

    /// What the tensors of a file hold of it; other tensors are not looked at.
    ///
    /// # Errors
    ///
    /// [`Error::ElementType`] and [`Error::Rank`] if class weights or centers are no matrices of this type, and
    /// [`Error::Checkpoint`] if numbers are none.
    pub fn from_tensors(tensors: &HashMap<String, Tensor>) -> Result<Self, Error> {
        let matrix = |name, argument| match tensors.get(name) {
            None => Ok(Array2::default((0, 0))),
            Some(tensor) => with_array(tensor, argument, |array| Ok::<_, Error>(array.to_owned())),
        };
        let numbers = |name: &str| match tensors.get(name) {
            None => Ok(Vec::new()),
            Some(tensor) if tensor.dtype() == DType::F64 && tensor.rank() == 1 => {
                Ok(tensor.to_vec1()?)
            }
            Some(_) => Err(Error::Checkpoint(format!(
                "{name} is no list of F64 numbers"
            ))),
        };
        Ok(Self {
            weights: matrix(WEIGHTS, Argument::ClassWeights)?,
            centers: matrix(CENTERS, Argument::Centers)?,
            learnables: numbers(LEARNABLES)?,
            statistics: numbers(STATISTICS)?,
        })
    }
}
