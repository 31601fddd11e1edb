//! What a token is.

/// What a token is, from `tokenizer.ggml.token_type`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// A piece that texts are made of.
    Normal,
    /// What stands for a text that no piece has.
    Unknown,
    /// Control information: found whole in a text, and left out when special tokens are skipped.
    Control,
    /// Found whole in a text, and part of it (Qwen3's `<think>`).
    UserDefined,
    /// A piece that no text has.
    Unused,
    /// One byte, `<0x0A>`.
    Byte,
}

impl Kind {
    /// Whether it is found whole in a text.
    pub(super) const fn is_added(self) -> bool {
        self.is_special() || matches!(self, Self::UserDefined)
    }

    /// Whether it is left out when special tokens are skipped.
    pub(super) const fn is_special(self) -> bool {
        matches!(self, Self::Control | Self::Unknown)
    }
}
