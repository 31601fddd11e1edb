//! Newtypes for numbers that must not be mixed up.

macro_rules! id {
    ($($(#[$doc:meta])* $name:ident($int:ty);)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[derive(serde::Serialize, serde::Deserialize, bytemuck::Pod, bytemuck::Zeroable)]
        #[repr(transparent)]
        pub struct $name(pub $int);

        impl $name {
            /// The id as an index into a table.
            pub const fn index(self) -> usize {
                self.0 as usize
            }
        }

        impl From<$int> for $name {
            fn from(id: $int) -> Self {
                Self(id)
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                self.0.fmt(f)
            }
        }
    )*};
}

id! {
    /// One entry of the vocabulary.
    TokenId(u32);
    /// A sequence in the scheduler, unique for the life of the engine.
    SeqId(u64);
    /// A place in the backend's per-sequence state, held from admission to end.
    SlotId(u32);
    /// A physical KV block. Block 0 is the null block: it fills block tables past their end and
    /// before a sliding window, and nothing that lies in it reaches a result.
    BlockId(u32);
    /// One forward pass.
    StepId(u64);
    /// An entry program, as an index into [`ModelSpec::programs`](crate::ModelSpec).
    EntryId(u32);
    /// A weight of a [`ModelSpec`](crate::ModelSpec).
    WeightId(u32);
    /// A value of a [`Program`](crate::Program).
    ValueId(u32);
}

impl EntryId {
    /// The entry that generates text: the first of every model.
    pub const GENERATE: Self = Self(0);
}

impl BlockId {
    /// The null block.
    pub const NULL: Self = Self(0);
}
