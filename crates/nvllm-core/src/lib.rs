//! The seams of nvLLM: what a model records, what a backend runs, and what passes between them.
//!
//! A model does not run anything. It records a [`Program`] once, at load: a flat list of LLM-sized
//! ops over symbolic rows. A [`Backend`] compiles that program, together with its weights and
//! state, into an [`Executable`] that runs one ragged [`Step`] after another. Everything that
//! crosses this line is data, so it can be printed, costed, planned, rewritten, and compared value
//! by value.
//!
//! The crate also holds the [`reference`](mod@reference) backend: naive, scalar, f32. It defines
//! what every op means; all other backends are held to it. Sampling semantics live here too
//! ([`sampling`]), once.
//!
//! Deliberately absent: threads, devices, async, clocks (but for those that time steps and, on
//! request, ops), tokenizers, and any knowledge of a model family.

pub mod backend;
pub mod blocks;
pub mod byte_count;
pub mod device;
pub mod dtype;
pub mod error;
pub mod exact_head;
pub mod executable;
pub mod hf_config;
mod hf_rope;
pub mod host;
pub mod ids;
pub mod kv_format;
pub mod limits;
pub mod memory_report;
pub mod plan;
pub mod profile;
pub mod program;
mod reason;
pub mod reference;
pub mod request_limits;
pub mod sampling;
pub mod spec;
pub mod stage;
pub mod state;
pub mod step;
pub mod tensor;
pub mod weight;

pub use backend::{Backend, BackendInfo};
pub use byte_count::ByteCount;
pub use dtype::DType;
pub use error::{CoreError, Result};
pub use exact_head::ExactHeadCounts;
pub use executable::Executable;
pub use hf_config::HfConfig;
pub use hf_rope::HfRope;
pub use ids::{BlockId, EntryId, SeqId, SlotId, StepId, TokenId, ValueId, WeightId};
pub use kv_format::KvFormat;
pub use limits::{Activations, Limits, Numerics};
pub use memory_report::MemoryReport;
pub use plan::{OpQuery, Plan};
pub use profile::{OpTime, StepProfile};
pub use program::{
    AttentionSpec, Op, PlanRules, Program, ProgramOutput, Recorder, RopeScaling, RopeSpec, Rows, RowsOf,
    ValueKind,
};
pub use reason::Reason;
pub use reference::Reference;
pub use request_limits::RequestLimits;
pub use sampling::SamplingParams;
pub use spec::{ModelFamily, ModelSpec, SpecBuilder};
pub use stage::{OrderId, Stage, schedule_text, stage_name};
pub use state::{KvCache, KvGeometry, KvLayer, PagedKv};
pub use step::{
    BlockCopy, InlineVec, OutputRow, RowOutput, SeqStep, SlotReset, Source, Step, StepOutput, StepSpan,
    Ticket, TokenLogprobs, TokenMasks,
};
pub use tensor::{HostTensor, Tensor};
pub use weight::{
    ActQuant, AxisRole, CanonicalTensor, Code, TensorInfo, Weight, WeightDecl, WeightFormat, WeightInfo,
    WeightPart, WeightSource,
};
