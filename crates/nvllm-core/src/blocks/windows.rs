//! Sliding windows: which layers have one, and where their keys and values go.

use super::DecoderConfig;
use crate::{CoreError, HfConfig, KvLayer, PagedKv, Result, SpecBuilder};

impl DecoderConfig {
    /// Each layer's window: `window` on the layers that `layer_types` calls sliding, or without
    /// that field on those that `slides` says.
    ///
    /// Errors if `layer_types` fits neither the layers nor `window`.
    pub fn windows(
        &self,
        hf: &HfConfig,
        window: Option<usize>,
        slides: impl Fn(usize) -> bool,
    ) -> Result<Vec<Option<usize>>> {
        let num_layers = self.num_layers;
        let Some(types) = hf.strings("layer_types")? else {
            return Ok((0..num_layers).map(|i| window.filter(|_| slides(i))).collect());
        };
        if types.len() != num_layers {
            let problem = format!("names {} layers; num_hidden_layers is {num_layers}", types.len());
            return Err(CoreError::config("layer_types", problem));
        }
        let of = |kind: &String| match kind.as_str() {
            "full_attention" => Ok(None),
            "sliding_attention" if window.is_some() => Ok(window),
            "sliding_attention" => Err(CoreError::config(
                "sliding_window",
                "is missing or switched off; layer_types names sliding layers",
            )),
            other => Err(CoreError::config(
                "layer_types",
                format!("holds {other}; full_attention and sliding_attention are supported"),
            )),
        };
        types.iter().map(of).collect()
    }

    /// The window `sliding_window` from layer `max_window_layers` on, if `use_sliding_window` says
    /// so (Qwen2, Qwen3). Fields that the file does not have are 4096 and 28, as in transformers; a
    /// window of null is none.
    ///
    /// Errors as [`windows`](Self::windows) does.
    pub fn upper_windows(&self, hf: &HfConfig) -> Result<Vec<Option<usize>>> {
        let used = hf.flag_or("use_sliding_window", false)?;
        let window = match used {
            true if hf.names("sliding_window") => hf.extent_opt("sliding_window")?,
            true => Some(4096),
            false => None,
        };
        // 0 is meaningful here: every layer slides.
        let first = hf.number_or("max_window_layers", 28.0)? as usize;
        self.windows(hf, window, |layer| layer >= first)
    }

    /// Declares where each layer keeps its keys and values. Layers that see equally far back share
    /// a KV group: what none of them sees any more can be given back.
    pub fn kv_layers(&self, b: &mut SpecBuilder, windows: &[Option<usize>]) -> Vec<KvLayer> {
        let mut places = vec![KvLayer { group: 0, layer: 0 }; windows.len()];
        let mut declared = Vec::new();
        for &window in windows {
            if declared.contains(&window) {
                continue;
            }
            declared.push(window);
            let members: Vec<_> = (0..windows.len()).filter(|&i| windows[i] == window).collect();
            let kv = b.paged_kv(PagedKv {
                num_layers: members.len(),
                num_heads: self.num_kv_heads,
                head_dim: self.head_dim,
                window,
            });
            members.into_iter().enumerate().for_each(|(layer, i)| places[i] = kv(layer));
        }
        places
    }
}
