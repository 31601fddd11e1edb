//! What is quantised while a model is loaded.

use clap::builder::PossibleValuesParser;
use clap::{Args, ValueEnum};
use nvllm_engine::{Format, Recipe};

/// A format that weights can be brought into.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum WeightFormatName {
    /// 8-bit integers, a scale a row; inputs in int8 a token.
    Int8,
    /// 4-bit integers, a scale a group of columns.
    Int4,
    /// FP8 E4M3, a scale a row; inputs in FP8 a token.
    Fp8,
    /// 4-bit NormalFloat, a scale for 64 columns.
    Nf4,
}

impl WeightFormatName {
    /// The format of linear layers.
    pub(crate) const fn of_layers(self, group_size: usize) -> Format {
        match self {
            Self::Int8 => Format::Int8,
            Self::Int4 => Format::Int4 { group_size },
            Self::Fp8 => Format::Fp8,
            Self::Nf4 => Format::Nf4,
        }
    }
}

/// A format for the head.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum HeadFormatName {
    /// 8-bit integers, a scale a row; inputs as they are.
    Int8,
    /// 4-bit integers, a scale a group of columns.
    Int4,
}

impl HeadFormatName {
    /// The format of the head. Its inputs are never rounded to int8: an error in one is one in
    /// every logit, and the head's time is that of reading its weights.
    pub(crate) const fn of_head(self, group_size: usize) -> Format {
        match self {
            Self::Int8 => Format::Int8Weights,
            Self::Int4 => Format::Int4 { group_size },
        }
    }
}

/// A group size.
pub(crate) fn group_sizes() -> impl clap::builder::TypedValueParser<Value = usize> {
    use clap::builder::TypedValueParser as _;
    // Every one of them is a number.
    PossibleValuesParser::new(["32", "64", "128"]).map(|size| size.parse().unwrap_or(128))
}

/// What is quantised while a model is loaded.
#[derive(Args, Clone)]
#[command(next_help_heading = "Loading")]
pub(crate) struct QuantizeArgs {
    /// Quantise the linear layers while they are loaded, each weight to the nearest value. Takes
    /// models in bf16, f16 or f32.
    #[arg(long, value_enum, value_name = "FORMAT")]
    pub quantize: Option<WeightFormatName>,
    /// Quantise the head too, and with it the embeddings where both are one table.
    #[arg(long, value_enum, value_name = "FORMAT", requires = "quantize")]
    pub quantize_head: Option<HeadFormatName>,
    /// Columns that share a scale in int4.
    #[arg(long, value_name = "N", default_value = "128", requires = "quantize", value_parser = group_sizes())]
    pub quantize_group_size: usize,
}

impl QuantizeArgs {
    /// What the flags ask for, if they ask for anything.
    pub(crate) fn recipe(&self) -> Option<Recipe> {
        let group_size = self.quantize_group_size;
        Some(Recipe {
            layers: self.quantize?.of_layers(group_size),
            head: self.quantize_head.map(|format| format.of_head(group_size)),
        })
    }

    /// The flags again, for a program that is run in the same way.
    pub(crate) fn flags(&self) -> Vec<String> {
        fn value(name: &str, value: Option<impl ValueEnum>) -> Vec<String> {
            let value = value.and_then(|value| Some(value.to_possible_value()?.get_name().to_owned()));
            value.map_or_else(Vec::new, |value| vec![name.into(), value])
        }
        let mut flags = value("--quantize", self.quantize);
        if !flags.is_empty() {
            flags.extend(value("--quantize-head", self.quantize_head));
            flags.extend(["--quantize-group-size".into(), self.quantize_group_size.to_string()]);
        }
        flags
    }
}
