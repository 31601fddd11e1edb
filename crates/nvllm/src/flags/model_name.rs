//! Which model, for commands that take it as an argument.

use clap::Args;
use clap::builder::NonEmptyStringValueParser;

/// Which model.
#[derive(Args)]
pub(crate) struct ModelName {
    /// A directory in Hugging Face's layout, a GGUF file, or a hub id (org/name, org/name:TYPE
    /// for a GGUF file of it, both also with @revision); the embedded demo model if not given.
    #[arg(value_name = "MODEL", value_parser = NonEmptyStringValueParser::new())]
    argument: Option<String>,
    /// The same, as in the other commands.
    #[arg(short, long, value_name = "MODEL", conflicts_with = "argument", value_parser = NonEmptyStringValueParser::new())]
    model: Option<String>,
}

impl ModelName {
    /// The name, if one is given.
    pub(crate) fn get(&self) -> Option<&str> {
        self.argument.as_deref().or(self.model.as_deref())
    }
}
