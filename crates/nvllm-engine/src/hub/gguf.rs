//! Which GGUF file is meant, of the several that a repository or a directory holds.
//!
//! Repositories offer one model in several types and say the type in the file's name:
//! `NAME-Q4_K_M.gguf`, `NAME.Q8_0.gguf`, `Q4_K_M/NAME-Q4_K_M-00001-of-00003.gguf`. A user names it
//! as llama.cpp's users do, `org/name:Q4_K_M`, or by the file's whole name.

use std::collections::BTreeMap;

/// The type that is taken where none is named, as in llama.cpp.
const DEFAULT: &str = "Q4_K_M";

/// The files, in order, of the model that `variant` means among `names`. `Ok(None)`: none of the
/// names is a GGUF model's. The error says what there is, in words that continue a sentence.
pub(super) fn choose<'a>(
    names: impl IntoIterator<Item = &'a str>,
    variant: Option<&str>,
) -> Result<Option<Vec<String>>, String> {
    let mut models: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for name in names {
        if let Some(stem) = model_stem(name) {
            models.entry(stem).or_default().push(name);
        }
    }
    let found = match variant {
        None if models.len() == 1 => models.keys().next().copied(),
        None => best(&models, DEFAULT),
        Some(variant) => best(&models, variant),
    };
    match found.and_then(|stem| models.remove(stem)) {
        Some(mut files) => {
            files.sort_unstable();
            Ok(Some(files.into_iter().map(String::from).collect()))
        }
        None if models.is_empty() => Ok(None),
        None => Err(choices(&models, variant)),
    }
}

/// What a name has before `.gguf` and the number of a part; none for other files, and for what
/// goes beside a model (projectors of images).
fn model_stem(name: &str) -> Option<&str> {
    let at = name.len().checked_sub(".gguf".len())?;
    let (stem, end) = name.split_at_checked(at)?;
    let safe = name.split('/').all(|part| !part.is_empty() && !part.starts_with('.')) && !name.contains('\\');
    let beside = stem.rsplit('/').next().is_some_and(|file| file.starts_with("mmproj"));
    (safe && !beside && end.eq_ignore_ascii_case(".gguf")).then(|| without_part(stem))
}

/// Cuts off `-00001-of-00003`.
fn without_part(stem: &str) -> &str {
    let number = |text: &str| text.len() == 5 && text.bytes().all(|b| b.is_ascii_digit());
    let cut = || {
        let (rest, total) = stem.rsplit_once("-of-")?;
        let (name, part) = rest.rsplit_once('-')?;
        (number(total) && number(part)).then_some(name)
    };
    cut().unwrap_or(stem)
}

/// The model whose name ends in `variant` or is it; the shortest, where others end so too
/// (`Q4_K_XL` and `UD-Q4_K_XL`).
fn best<'a>(models: &BTreeMap<&'a str, Vec<&'a str>>, variant: &str) -> Option<&'a str> {
    let wanted = model_stem(variant).unwrap_or(variant).to_ascii_lowercase();
    let ends = |stem: &&&str| {
        let stem = stem.to_ascii_lowercase();
        stem.strip_suffix(&wanted).is_some_and(|rest| rest.is_empty() || rest.ends_with(['-', '.', '/']))
    };
    models.keys().filter(ends).min_by_key(|stem| stem.len()).copied()
}

/// What can be named.
fn choices(models: &BTreeMap<&str, Vec<&str>>, variant: Option<&str>) -> String {
    const SHOWN: usize = 12;
    let tag = |stem: &&str| stem.rsplit(['-', '.', '/']).next().unwrap_or(stem).to_owned();
    let mut tags: Vec<_> = models.keys().map(tag).collect();
    tags.sort();
    tags.dedup();
    let more = tags.len().saturating_sub(SHOWN);
    tags.truncate(SHOWN);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    let listed = tags.join(", ");
    match variant {
        Some(variant) => format!("no GGUF file of it is {variant}; there are {listed}{more}"),
        None => format!("it holds several GGUF files; choose one as in :{}, of {listed}{more}", tags[0]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const REPO: [&str; 9] = [
        "README.md",
        "m-Q4_K_M.gguf",
        "m-Q8_0.gguf",
        "m-UD-Q4_K_XL.gguf",
        "m-Q4_K_XL.gguf",
        "mmproj-F16.gguf",
        "BF16/m-BF16-00002-of-00002.gguf",
        "BF16/m-BF16-00001-of-00002.gguf",
        "../m-Q2_K.gguf",
    ];

    fn chosen(variant: Option<&str>) -> String {
        choose(REPO, variant).map_or_else(|problem| problem, |files| files.unwrap().join(" "))
    }

    #[test]
    fn a_type_or_a_name_chooses_a_file() {
        assert_eq!(chosen(None), "m-Q4_K_M.gguf");
        for (variant, file) in [
            ("Q8_0", "m-Q8_0.gguf"),
            ("q8_0", "m-Q8_0.gguf"),
            ("Q4_K_XL", "m-Q4_K_XL.gguf"),
            ("UD-Q4_K_XL", "m-UD-Q4_K_XL.gguf"),
            ("m-Q8_0.gguf", "m-Q8_0.gguf"),
            ("BF16", "BF16/m-BF16-00001-of-00002.gguf BF16/m-BF16-00002-of-00002.gguf"),
            (
                "BF16/m-BF16-00001-of-00002.gguf",
                "BF16/m-BF16-00001-of-00002.gguf BF16/m-BF16-00002-of-00002.gguf",
            ),
        ] {
            assert_eq!(chosen(Some(variant)), file, "{variant}");
        }
    }

    #[test]
    fn what_is_not_there_is_answered_with_what_is() {
        for variant in ["Q5_0", "8_0", "Q2_K", "F16", ""] {
            let text = chosen(Some(variant));
            assert!(text.contains("there are BF16, Q4_K_M, Q4_K_XL, Q8_0"), "{variant}: {text}");
        }
        let two = choose(["a-Q8_0.gguf", "a-F16.gguf"], None).unwrap_err();
        assert!(two.contains("choose one as in :F16, of F16, Q8_0"), "{two}");
        assert_eq!(choose(["only.gguf"], None).unwrap().unwrap(), ["only.gguf"]);
        assert_eq!(choose(["config.json", "mmproj-F16.gguf"], None).unwrap(), None);
        assert_eq!(choose(["config.json"], Some("Q8_0")).unwrap(), None);
    }
}
