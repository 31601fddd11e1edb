//! Whether a device's memory holds a model.

use crate::{CoreError, KvGeometry, Limits, MemoryReport, Result};

/// Refuses what the device does not hold, and says what it would.
///
/// # Errors
/// [`CoreError::DoesNotFit`] if `need` is more than `available` bytes.
pub fn check_fits(
    need: MemoryReport,
    available: usize,
    limits: &Limits,
    geometries: &[KvGeometry],
) -> Result<()> {
    if need.total() <= available {
        return Ok(());
    }
    let rest = MemoryReport { kv: 0, ..need }.total();
    let block = geometries.iter().map(KvGeometry::block_bytes).fold(0, usize::saturating_add);
    let blocks = available.saturating_sub(rest).checked_div(block).unwrap_or(0);
    let tokens = blocks.saturating_sub(1) * limits.block_len;
    let advice = if tokens == 0 {
        "there is no room for a KV cache: use fewer tokens in a step, or a larger GPU".into()
    } else {
        let sequences = tokens / limits.context;
        format!(
            "a KV cache of {} bytes would fit, {tokens} tokens or {sequences} sequences of {}",
            blocks * block,
            limits.context
        )
    };
    Err(CoreError::DoesNotFit { need, available, place: "the GPU".into(), advice })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Activations, KvFormat};

    #[test]
    fn what_does_not_fit_is_refused_with_what_would() {
        let limits = Limits { step_tokens: 8, kv_bytes: 1 << 20, ..Limits::new(Activations::F32, 1, 32) };
        let geometry = KvGeometry {
            num_layers: 1,
            num_heads: 1,
            head_dim: 8,
            block_len: 16,
            num_blocks: 100,
            format: KvFormat::F32,
            window: None,
        };
        // A block takes 1,024 bytes.
        let need = MemoryReport { weights: 5_000, kv: 102_400, arena: 3_000, scratch: 2_000 };
        let check = |free| check_fits(need, free, &limits, &[geometry]).map_err(|error| error.to_string());
        assert_eq!(check(112_400), Ok(()));
        let fits = check(112_399).unwrap_err();
        assert!(
            fits.contains("a KV cache of 101376 bytes would fit, 1568 tokens or 49 sequences of 32"),
            "{fits}"
        );
        let too_small = check(10_000).unwrap_err();
        assert!(too_small.contains("there is no room for a KV cache"), "{too_small}");
    }
}
