//! The groups of flags that several commands share. A command's own flags stand beside its code.

mod device;
mod load;
mod model_name;
pub(crate) mod number;
mod quantize;
mod repository;
mod sampling;

pub(crate) use device::{BackendName, DeviceArgs, DeviceProfile};
pub(crate) use load::{Dtype, KvCacheDtype, LoadArgs, ModelArgs, Promise};
pub(crate) use model_name::ModelName;
pub(crate) use quantize::{HeadFormatName, QuantizeArgs, WeightFormatName, group_sizes};
pub(crate) use repository::RepositoryArgs;
pub(crate) use sampling::{SamplingArgs, params};
