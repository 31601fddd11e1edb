//! What kernels are compiled for.

/// What to compile for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Target {
    /// Machine code of one compute capability, as 10 * major + minor, with its own instructions
    /// where it has some.
    Cubin(u32),
    /// PTX of a compute capability, for devices yet unknown.
    Ptx(u32),
}

impl Target {
    /// Everything that a release supports.
    pub const ALL: [Self; 6] = [
        Self::Cubin(80),
        Self::Cubin(89),
        Self::Cubin(90),
        Self::Cubin(100),
        Self::Cubin(120),
        Self::Ptx(80),
    ];

    /// Machine code for a device of this compute capability.
    pub const fn of_device((major, minor): (i32, i32)) -> Self {
        Self::Cubin((10 * major + minor) as u32)
    }

    /// What a device can run, best first: its own machine code, or what the driver makes of PTX.
    pub(crate) const fn for_device(capability: (i32, i32)) -> [Self; 2] {
        [Self::of_device(capability), Self::Ptx(80)]
    }

    /// Whether kernels are made for blocks with no more than 99 KB of shared memory: `TIGHT` in
    /// prelude.cuh, whose rings are then shorter. PTX must run on any device.
    pub(crate) const fn tight(self) -> bool {
        matches!(self, Self::Cubin(86 | 89 | 120..) | Self::Ptx(_))
    }

    /// Whether kernels wait inside for what the kernel before wrote: as `wait_for_inputs` in
    /// prelude.cuh.
    pub(crate) const fn waits(self) -> bool {
        matches!(self, Self::Cubin(90..))
    }

    /// The compiler's name of it. Hopper and data-centre Blackwell have instructions that need the
    /// suffixed target.
    pub fn name(self) -> String {
        match self {
            Self::Cubin(number) => {
                format!("sm_{number}{}", if (90..120).contains(&number) { "a" } else { "" })
            }
            Self::Ptx(number) => format!("compute_{number}"),
        }
    }
}
