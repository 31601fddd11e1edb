//! How many blocks of a kernel a multiprocessor of Hopper holds, as NVIDIA's occupancy calculator
//! says.

const WARPS: u32 = 64;
const BLOCKS: u32 = 32;
const REGISTERS: u32 = 65_536;
/// Registers are given to a warp in so many, and shared memory to a block.
const REGISTER_UNIT: u32 = 256;
const SHARED_UNIT: u32 = 128;
const SHARED: u32 = 233_472;
/// What the system takes of each block's.
const RESERVED: u32 = 1024;

/// Blocks of so many threads, registers a thread and bytes of shared memory.
pub(super) fn blocks(threads: u32, registers: u32, shared: u32) -> u32 {
    let warps = threads.div_ceil(32).max(1);
    let by_registers = REGISTERS / (registers * 32).next_multiple_of(REGISTER_UNIT).max(REGISTER_UNIT);
    // A quarter of the multiprocessor has a quarter of the registers and of the warps.
    let by_registers = by_registers / 4 * 4 / warps;
    let by_shared = SHARED / (shared + RESERVED).next_multiple_of(SHARED_UNIT);
    BLOCKS.min(WARPS / warps).min(by_registers).min(by_shared)
}

#[cfg(test)]
mod tests {
    use super::blocks;

    #[test]
    fn what_runs_out_first_decides() {
        assert_eq!(blocks(32, 16, 0), 32);
        assert_eq!(blocks(256, 32, 0), 8);
        assert_eq!(blocks(256, 33, 0), 6);
        assert_eq!(blocks(128, 128, 0), 4);
        assert_eq!(blocks(256, 255, 0), 1);
        assert_eq!(blocks(128, 40, 64_000), 3);
        assert_eq!(blocks(128, 40, 113_152), 2);
        assert_eq!(blocks(256, 64, 232_448), 1);
        assert_eq!(blocks(256, 64, 232_449), 0);
    }
}
