//! Where a device's machine code comes from: what the build has inside, then the folder, then the
//! compiler.

use std::path::PathBuf;

use super::{Archive, KernelCache, Nvrtc, Source, Target, sources};
use crate::device::version;
use crate::error::{CudaError, Result};

/// The sources of machine code, in the order in which they are asked.
pub(crate) struct Images {
    inside: Option<Archive<'static>>,
    cache: KernelCache,
    nvrtc_dir: Option<PathBuf>,
    /// The CUDA version that the driver supports.
    driver: i32,
}

impl Images {
    /// `inside` are the bytes of an archive. One that is damaged, or too new for the driver, is as
    /// good as none.
    pub(crate) fn new(
        inside: Option<&'static [u8]>,
        cache: KernelCache,
        nvrtc_dir: Option<PathBuf>,
        driver: i32,
    ) -> Self {
        let archive = inside.and_then(Archive::open);
        if inside.is_some() && archive.is_none() {
            tracing::warn!("the kernels inside this build are damaged");
        }
        let inside = archive.filter(|archive| loads(archive.version(), driver));
        Self { inside, cache, nvrtc_dir, driver }
    }

    /// Whether there will be an image of every kernel, so that what is missing is said before a
    /// model is read.
    pub(crate) fn check(&self, targets: &[Target]) -> Result<()> {
        let inside = |target: &Target| self.inside.as_ref().is_some_and(|archive| archive.holds(*target));
        if targets.iter().any(inside) { Ok(()) } else { self.nvrtc().map(drop) }
    }

    /// The compiler, if it is found and the driver loads what it makes.
    fn nvrtc(&self) -> Result<Nvrtc> {
        let nvrtc = Nvrtc::load(self.nvrtc_dir.as_deref())?;
        if loads(nvrtc.version(), self.driver) {
            return Ok(nvrtc);
        }
        let (major, minor) = nvrtc.version();
        Err(CudaError::OldDriver {
            found: version(self.driver),
            needed: format!("{major}.{minor}, which the installed NVRTC belongs to,"),
        })
    }

    fn image(&self, source: &Source, target: Target) -> Result<Vec<u8>> {
        match self.inside.as_ref().and_then(|archive| archive.image(source, target)) {
            Some(image) => Ok(image),
            None => self.cache.image(self.nvrtc()?, source, target),
        }
    }

    /// The machine code of `source`, compiled now, whatever was kept.
    pub(crate) fn anew(&self, source: &Source, target: Target) -> Result<Vec<u8>> {
        self.cache.compile(self.nvrtc()?, source, target)
    }

    /// Machine code of every file that takes `target`, several files at once.
    pub(crate) fn all(&self, target: Target) -> Result<Vec<(&'static Source, Vec<u8>)>> {
        let wanted: Vec<_> = sources().iter().filter(|source| (source.takes)(target)).collect();
        let num_threads = std::thread::available_parallelism().map_or(1, usize::from).min(8);
        let share = wanted.len().div_ceil(num_threads).max(1);
        std::thread::scope(|scope| {
            let one = |&source: &&'static Source| Ok((source, self.image(source, target)?));
            let worker = |part| scope.spawn(move || <[_]>::iter(part).map(one).collect::<Result<Vec<_>>>());
            let workers: Vec<_> = wanted.chunks(share).map(worker).collect();
            let mut images = Vec::new();
            for worker in workers {
                images.extend(worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?);
            }
            Ok(images)
        })
    }
}

/// Whether a driver loads what a compiler makes: machine code of a newer major version does not
/// load.
const fn loads((major, _): (i32, i32), driver: i32) -> bool {
    major <= driver / 1000
}

/// Loads an image; one that is refused is made anew, once. What cannot be made anew stays refused.
pub(crate) fn load_or_anew<T>(
    image: &[u8],
    load: impl Fn(&[u8]) -> Result<T>,
    anew: impl FnOnce() -> Result<Vec<u8>>,
) -> Result<T> {
    load(image).or_else(|refusal| {
        tracing::warn!(error = %refusal, "a kept kernel does not load: compiling it again");
        load(&anew().map_err(|_| refusal)?)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compile::archive;

    const DRIVER: i32 = 13_000;

    /// An archive with one byte for every kernel of Hopper, made by a compiler of major version
    /// `major`.
    fn inside(major: i32) -> &'static [u8] {
        let target = Target::Cubin(90);
        let all = sources().iter().filter(|source| (source.takes)(target));
        let images: Vec<_> = all.map(|source| (*source, target, vec![42])).collect();
        archive(Nvrtc::of_version((major, 0)), &images).unwrap().leak()
    }

    /// No compiler is where it is looked for.
    fn images(inside: Option<&'static [u8]>) -> Images {
        Images::new(inside, KernelCache::default(), Some("/nowhere".into()), DRIVER)
    }

    #[test]
    fn a_build_with_kernels_inside_needs_no_compiler() {
        let images = images(Some(inside(13)));
        images.check(&[Target::Cubin(90)]).unwrap();
        images.check(&[Target::Cubin(86), Target::Cubin(90)]).unwrap();
        let all = images.all(Target::Cubin(90)).unwrap();
        assert!(all.len() > 20 && all.iter().all(|(_, image)| image == &[42]));
    }

    #[test]
    fn without_usable_kernels_the_compiler_is_asked_for() {
        let mut cut = inside(13).to_vec();
        cut.pop();
        for inside in [None, Some(&b"not an archive"[..]), Some(&*cut.leak()), Some(inside(14))] {
            let images = images(inside);
            let error = images.check(&[Target::Cubin(90)]).unwrap_err();
            assert!(matches!(error, CudaError::NoNvrtc { .. }), "{error}");
            assert!(matches!(images.all(Target::Cubin(90)), Err(CudaError::NoNvrtc { .. })));
        }
        let images = images(Some(inside(13)));
        assert!(images.check(&[Target::Cubin(80)]).is_err(), "only Hopper's are inside");
    }

    #[test]
    fn a_refused_image_is_made_anew_once() {
        let refused = || CudaError::Driver { what: "loading a kernel", cause: "it is stale".into() };
        let load = |image: &[u8]| if image == b"good" { Ok(1) } else { Err(refused()) };
        assert_eq!(load_or_anew(b"good", load, || panic!("it loads")).unwrap(), 1);
        assert_eq!(load_or_anew(b"stale", load, || Ok(b"good".to_vec())).unwrap(), 1);
        let again = load_or_anew(b"stale", load, || Ok(b"bad".to_vec())).unwrap_err();
        let without = load_or_anew(b"stale", load, || Err(CudaError::NoDevice)).unwrap_err();
        assert!(again.to_string().contains("stale") && without.to_string().contains("stale"));
    }
}
