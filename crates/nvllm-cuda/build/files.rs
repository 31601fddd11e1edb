//! The kernels' files.

use std::io::Result;
use std::path::Path;

/// Paths below `kernels` and texts of all files in its folders, sorted.
pub(crate) fn files(kernels: &Path) -> Result<Vec<(String, String)>> {
    let name = |path: &Path| path.file_name().map(|name| name.to_string_lossy().into_owned());
    let mut files = Vec::new();
    for folder in std::fs::read_dir(kernels)? {
        let folder = folder?.path();
        if !folder.is_dir() {
            continue;
        }
        for file in std::fs::read_dir(&folder)? {
            let path = file?.path();
            if path.extension().is_some_and(|extension| extension == "cu" || extension == "cuh")
                && let (Some(folder), Some(file)) = (name(&folder), name(&path))
            {
                files.push((format!("{folder}/{file}"), std::fs::read_to_string(&path)?));
            }
        }
    }
    files.sort();
    Ok(files)
}
