//! What the assembler says each kernel takes, and what its file's header allows.

use super::Source;
use crate::kernels::STATIC_SHARED;

/// What one kernel takes of a multiprocessor.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resources {
    /// The kernel.
    pub kernel: String,
    /// Registers a thread.
    pub registers: u32,
    /// Static shared memory of a block, in bytes.
    pub shared: u32,
    /// Stack frame of a thread, in bytes.
    pub stack: u32,
    /// Bytes that a thread stores because registers run out.
    pub spilled: u32,
}

/// A spill that a file's header allows: `// spills: KERNEL BYTES: reason`. `KERNEL` is a name, or
/// its beginning followed by `*`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Budget {
    /// The kernel.
    pub kernel: String,
    /// Bytes at most.
    pub bytes: u32,
    /// Why.
    pub reason: String,
}

impl Budget {
    /// Whether it is about `kernel`.
    pub fn covers(&self, kernel: &str) -> bool {
        self.kernel.strip_suffix('*').map_or(self.kernel == kernel, |stem| kernel.starts_with(stem))
    }
}

/// Bytes of static shared memory that the host counts on for the kernels of a file, at most; `None`
/// if it does not ask.
pub fn static_limit(source: &Source) -> Option<usize> {
    STATIC_SHARED.iter().find(|(path, _)| *path == source.path).map(|(_, bytes)| *bytes)
}

/// The resources of each kernel in a log of `ptxas -v`, whose lines say them in turn.
pub fn resources(log: &str) -> Vec<Resources> {
    let mut found: Vec<Resources> = Vec::new();
    // A function that was not inlined follows its kernel under its own name.
    let mut own = true;
    for line in log.lines() {
        if let Some((_, rest)) = line.split_once("Compiling entry function '")
            && let Some((kernel, _)) = rest.split_once('\'')
        {
            found.push(Resources { kernel: kernel.into(), ..Resources::default() });
        }
        let Some(last) = found.last_mut() else { continue };
        let number = |after: &str| before(line, after);
        if let Some((_, name)) = line.split_once("Function properties for ") {
            own = name.trim() == last.kernel;
        }
        if let Some(stack) = number(" bytes stack frame") {
            last.stack = if own { stack } else { last.stack };
            last.spilled += number(" bytes spill stores").unwrap_or(0);
        }
        if let Some(registers) = number(" registers") {
            last.registers = registers;
            last.shared = number(" bytes smem").unwrap_or(0);
        }
    }
    found
}

/// The number that stands right before `after`.
fn before(line: &str, after: &str) -> Option<u32> {
    let (head, _) = line.split_once(after)?;
    head.rsplit(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

/// The spills that a file's header allows. A line that cannot be read allows nothing.
pub fn budgets(source: &Source) -> Vec<Budget> {
    let header = source.text.lines().take_while(|line| line.starts_with("//"));
    let one = |line: &str| {
        let (what, reason) = line.strip_prefix("// spills: ")?.split_once(": ")?;
        let (kernel, bytes) = what.split_once(' ')?;
        Some(Budget { kernel: kernel.into(), bytes: bytes.parse().ok()?, reason: reason.trim().into() })
    };
    header.filter_map(one).filter(|budget| !budget.reason.is_empty()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: &str = "ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function 'rope_table' for 'sm_90a'
ptxas info    : Function properties for rope_table
ptxas         .     40 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 34 registers, used 1 barriers, 40 bytes cumulative stack size
ptxas info    : Function properties for __internal_trig_reduction_slowpathd
ptxas         .     0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Compiling entry function 'big' for 'sm_90a'
ptxas info    : Function properties for big
    1392 bytes stack frame, 1392 bytes spill stores, 1400 bytes spill loads
ptxas info    : Used 255 registers, used 1 barriers, 1392 bytes cumulative stack size, 2112 bytes smem
";

    #[test]
    fn every_kernel_is_found_with_what_it_takes() {
        let kernel = |kernel: &str, registers, shared, stack, spilled| Resources {
            kernel: kernel.into(),
            registers,
            shared,
            stack,
            spilled,
        };
        assert_eq!(
            resources(LOG),
            [kernel("rope_table", 34, 0, 40, 0), kernel("big", 255, 2112, 1392, 1392)]
        );
    }

    #[test]
    fn budgets_need_a_number_and_a_reason() {
        let text = "// A kernel.\n// spills: big 1400: the tile is worth it\n// spills: bad x: no\n// spills: dumb 3:  \n\
                    // spills: wide_* 8: one flag\nint x;\n// spills: late 1: too late\n";
        let source = Source { path: "a.cu", text, takes: |_| true };
        let found = budgets(&source);
        assert_eq!(
            found.iter().map(|b| (b.kernel.as_str(), b.bytes)).collect::<Vec<_>>(),
            [("big", 1400), ("wide_*", 8)]
        );
        assert!(found[1].covers("wide_bf16") && !found[0].covers("bigger"));
    }
}
