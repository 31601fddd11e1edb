//! Which GGUF model is meant, of those that a repository or a directory holds.
//!
//! Repositories offer one model in several types and say the type in the file's name:
//! `NAME-Q4_K_M.gguf`, `NAME.Q8_0.gguf`, `Q4_K_M/NAME-Q4_K_M-00001-of-00003.gguf`. A user names it
//! as llama.cpp's users do, `org/name:Q4_K_M`, or by the file's whole name. What cannot be told
//! from what was said is asked for, never guessed.

use std::collections::BTreeMap;
use std::path::Path;

use nvllm_gguf::SplitName;

/// The type that is taken where none is named, as in llama.cpp.
const DEFAULT: &str = "Q4_K_M";

/// What stands before a type and belongs to it: the same model, quantised in another way.
const MARKS: [&str; 2] = ["UD", "i1"];

/// Where the files are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// A directory of the user's. No type is the default in it.
    Directory,
    /// A repository, all of whose files are known.
    Repository,
    /// What is cached of a repository, which may hold more: only what was named exactly is meant.
    Snapshot,
}

/// A model as one GGUF file or as parts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct GgufModel {
    /// Its name with folders, without `.gguf` and the number of a part.
    stem: String,
    /// Its file, or its first part.
    first: String,
    /// How the parts are named, if there are several.
    split: Option<SplitName>,
}

/// The GGUF models among the names of files, sorted. What goes beside a model (projectors of
/// images) is none.
pub(super) fn models<'a>(names: impl IntoIterator<Item = &'a str>) -> Vec<GgufModel> {
    let models = names.into_iter().filter_map(GgufModel::of);
    let by_first: BTreeMap<_, _> = models.map(|model| (model.first.clone(), model)).collect();
    by_first.into_values().collect()
}

impl GgufModel {
    /// The model that has the file `name`.
    fn of(name: &str) -> Option<Self> {
        let stem = name.len().checked_sub(".gguf".len()).and_then(|at| name.split_at_checked(at));
        let (stem, _) = stem.filter(|(_, end)| end.eq_ignore_ascii_case(".gguf"))?;
        let safe =
            name.split('/').all(|part| !part.is_empty() && !part.starts_with('.')) && !name.contains('\\');
        if !safe || file_name(name).to_ascii_lowercase().contains("mmproj") {
            return None;
        }
        let split = SplitName::of(Path::new(name));
        let stem = split.as_ref().map_or(stem.into(), |split| split.stem().to_string_lossy());
        Some(Self { stem: stem.into_owned(), first: first_part(name), split })
    }

    /// All of its files, in order.
    pub(super) fn files(&self) -> Vec<String> {
        match &self.split {
            Some(split) => (0..split.count).map(|no| part(split, no)).collect(),
            None => vec![self.first.clone()],
        }
    }

    /// Its file, or its first part.
    pub(super) fn first(&self) -> &str {
        &self.first
    }

    /// Its file's name up to the type, and the type.
    fn base_and_type(&self) -> (&str, &str) {
        let name = file_name(&self.stem);
        let Some((mut base, mut end)) = name.rsplit_once(['-', '.']) else { return ("", name) };
        let before = base.rsplit(['-', '.']).next().unwrap_or_default();
        if MARKS.iter().any(|mark| mark.eq_ignore_ascii_case(before)) {
            end = &name[base.len() - before.len()..];
            base = base[..base.len() - before.len()].trim_end_matches(['-', '.']);
        }
        (base, end)
    }

    /// Whether its name ends in `variant`, in any case.
    fn ends_in(&self, variant: &str) -> bool {
        let rest = self.stem.len().checked_sub(variant.len()).and_then(|at| self.stem.split_at_checked(at));
        rest.is_some_and(|(rest, end)| {
            end.eq_ignore_ascii_case(variant) && (rest.is_empty() || rest.ends_with(['-', '.', '/']))
        })
    }
}

/// The model that `variant` means. `Ok(None)`: there is no GGUF model. The error says what there
/// is, in words that continue a sentence.
pub(super) fn choose<'a>(
    models: &'a [GgufModel],
    variant: Option<&str>,
    place: Place,
) -> Result<Option<&'a GgufModel>, String> {
    let found = match (variant, models) {
        (_, []) => return Ok(None),
        (None, [only]) if place != Place::Snapshot => vec![only],
        (None, _) if place == Place::Directory => Vec::new(),
        _ => matching(models, variant.unwrap_or(DEFAULT), place),
    };
    match found.as_slice() {
        [model] => Ok(Some(model)),
        [] => Err(choices(models, variant, place)),
        [first, ..] => {
            let (wanted, first) = (variant.unwrap_or(DEFAULT), first.first());
            let listed = shortened(found.iter().map(|model| model.first.clone()).collect());
            Err(format!("several GGUF models of it are {wanted}; choose one as in :{first}, of {listed}"))
        }
    }
}

/// The models of a name, or else of a type. A whole name says case for case what is meant.
fn matching<'a>(models: &'a [GgufModel], wanted: &str, place: Place) -> Vec<&'a GgufModel> {
    let all = |is_meant: &dyn Fn(&GgufModel) -> bool| -> Vec<&'a GgufModel> {
        models.iter().filter(|model| is_meant(model)).collect()
    };
    let file = first_part(wanted);
    let by_file = all(&|model| model.first == file);
    if !by_file.is_empty() {
        return by_file;
    }
    let by_name = all(&|model| {
        file_name(&model.first) == file || model.stem == wanted || file_name(&model.stem) == wanted
    });
    if !by_name.is_empty() {
        return by_name;
    }
    let of_type = all(&|model| model.base_and_type().1.eq_ignore_ascii_case(wanted));
    if place == Place::Snapshot {
        return of_type;
    }
    // `Q4_K_XL` goes before `UD-Q4_K_XL` of the same model, not before another model's.
    let ending = all(&|model| model.ends_in(wanted));
    let one_base = ending.windows(2).all(|pair| pair[0].base_and_type().0 == pair[1].base_and_type().0);
    if one_base && !of_type.is_empty() { of_type } else { ending }
}

/// What can be named, where nothing is what was meant.
fn choices(models: &[GgufModel], variant: Option<&str>, place: Place) -> String {
    let names = names(models);
    let (first, one) = (names[0].clone(), names.len() == 1);
    let listed = shortened(names);
    match (place, variant) {
        (Place::Directory, _) => {
            let files = shortened(models.iter().map(|model| model.first.clone()).collect());
            format!("give the path of one of {files}")
        }
        (Place::Repository, Some(variant)) => {
            format!("no GGUF file of it is {variant}; there are {listed}")
        }
        (Place::Repository, None) => {
            format!("it holds several GGUF files; choose one as in :{first}, of {listed}")
        }
        (Place::Snapshot, Some(_)) if one => format!("of its GGUF files only {listed} is cached"),
        (Place::Snapshot, Some(_)) => format!("of its GGUF files only {listed} are cached"),
        (Place::Snapshot, None) if one => {
            format!("of its GGUF files only {listed} is cached: ask for it as in :{first}")
        }
        (Place::Snapshot, None) => {
            format!("of its GGUF files only {listed} are cached: ask for one as in :{first}")
        }
    }
}

/// What each model is called after `org/name:`, in the order of `models`: its type, or its file
/// where others have the type too.
pub(super) fn names(models: &[GgufModel]) -> Vec<String> {
    let same = |a: &GgufModel, b: &GgufModel| a.base_and_type().1.eq_ignore_ascii_case(b.base_and_type().1);
    let name = |model: &GgufModel| {
        let alone = models.iter().filter(|other| same(model, other)).count() == 1;
        if alone { model.base_and_type().1.to_owned() } else { model.first.clone() }
    };
    models.iter().map(name).collect()
}

/// Names for a message, sorted.
fn shortened(mut names: Vec<String>) -> String {
    const SHOWN: usize = 12;
    names.sort();
    let more = names.len().saturating_sub(SHOWN);
    names.truncate(SHOWN);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    names.join(", ") + &more
}

/// The first part of the model that has the file `name`: itself, if it is no part.
fn first_part(name: &str) -> String {
    SplitName::of(Path::new(name)).map_or_else(|| name.to_owned(), |split| part(&split, 0))
}

/// Made of a name that is text.
fn part(split: &SplitName, no: u64) -> String {
    split.part(no).to_string_lossy().into_owned()
}

fn file_name(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    const REPO: [&str; 11] = [
        "README.md",
        "m-Q4_K_M.gguf",
        "m-Q8_0.gguf",
        "m-UD-Q4_K_XL.gguf",
        "m-Q4_K_XL.gguf",
        "m.i1-IQ1_S.gguf",
        "mmproj-F16.gguf",
        "m-mmproj-f16.gguf",
        "BF16/m-BF16-00002-of-00002.gguf",
        "BF16/m-BF16-00001-of-00002.gguf",
        "../m-Q2_K.gguf",
    ];

    fn chosen_of(files: &[&str], variant: Option<&str>, place: Place) -> String {
        match choose(&models(files.iter().copied()), variant, place) {
            Ok(found) => found.map_or_else(|| "none".into(), |model| model.files().join(" ")),
            Err(problem) => problem,
        }
    }

    fn chosen(variant: Option<&str>) -> String {
        chosen_of(&REPO, variant, Place::Repository)
    }

    #[test]
    fn a_type_or_a_name_chooses_a_file() {
        assert_eq!(chosen(None), "m-Q4_K_M.gguf");
        for (variant, file) in [
            ("Q8_0", "m-Q8_0.gguf"),
            ("q8_0", "m-Q8_0.gguf"),
            ("Q4_K_XL", "m-Q4_K_XL.gguf"),
            ("UD-Q4_K_XL", "m-UD-Q4_K_XL.gguf"),
            ("IQ1_S", "m.i1-IQ1_S.gguf"),
            ("i1-iq1_s", "m.i1-IQ1_S.gguf"),
            ("m-Q8_0", "m-Q8_0.gguf"),
            ("m-Q8_0.gguf", "m-Q8_0.gguf"),
            ("BF16", "BF16/m-BF16-00001-of-00002.gguf BF16/m-BF16-00002-of-00002.gguf"),
            ("m-BF16-00002-of-00002.gguf", "BF16/m-BF16-00001-of-00002.gguf BF16/m-BF16-00002-of-00002.gguf"),
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
        for variant in ["Q5_0", "8_0", "Q2_K", "F16", "", "M-q8_0.gguf"] {
            let text = chosen(Some(variant));
            let there = "there are BF16, Q4_K_M, Q4_K_XL, Q8_0, UD-Q4_K_XL, i1-IQ1_S";
            assert!(text.contains(there), "{variant}: {text}");
        }
        let two = chosen_of(&["a-Q8_0.gguf", "a-F16.gguf"], None, Place::Repository);
        assert!(two.contains("choose one as in :F16, of F16, Q8_0"), "{two}");
        assert_eq!(chosen_of(&["only.gguf"], None, Place::Repository), "only.gguf");
        assert_eq!(chosen_of(&["config.json", "mmproj-F16.gguf"], None, Place::Repository), "none");
        assert_eq!(chosen_of(&["config.json"], Some("Q8_0"), Place::Repository), "none");
    }

    #[test]
    fn several_models_are_never_guessed_at() {
        for (files, variant) in [
            (["llama-8b-Q4_K_M.gguf", "qwen2-7b-Q4_K_M.gguf"], None),
            (["llama-8b-Q4_K_M.gguf", "qwen2-7b-Q4_K_M.gguf"], Some("q4_k_m")),
            (["llama-8b-Q4_K_M.gguf", "qwen2-7b-UD-Q4_K_M.gguf"], Some("Q4_K_M")),
            (["m-Q8_0.gguf", "m-Q8_0-00001-of-00002.gguf"], Some("Q8_0")),
            (["m-Q8_0-00001-of-00002.gguf", "m-Q8_0-00001-of-00003.gguf"], Some("Q8_0")),
            (["M-Q8_0.gguf", "m-Q8_0.gguf"], Some("Q8_0")),
            (["a/m-Q8_0.gguf", "b/m-Q8_0.gguf"], Some("m-Q8_0.gguf")),
        ] {
            let text = chosen_of(&files, variant, Place::Repository);
            assert!(
                text.starts_with("several GGUF models") && files.iter().all(|f| text.contains(f)),
                "{text}"
            );
            for file in files {
                let text = chosen_of(&files, Some(file), Place::Repository);
                assert!(text.starts_with(file), "{text}");
            }
        }
        let files = ["a-Q4_K_M.gguf", "a-Q8_0.gguf"];
        let text = chosen_of(&files, None, Place::Directory);
        assert_eq!(text, "give the path of one of a-Q4_K_M.gguf, a-Q8_0.gguf");
        assert_eq!(chosen_of(&files[1..], None, Place::Directory), files[1]);
    }

    #[test]
    fn of_a_cache_only_what_is_named_exactly_is_taken() {
        let cached = ["m-UD-Q4_K_M.gguf", "m-Q8_0.gguf"];
        for (variant, file) in [("q8_0", 1), ("m-Q8_0", 1), ("m-Q8_0.gguf", 1), ("ud-q4_k_m", 0)] {
            assert_eq!(chosen_of(&cached, Some(variant), Place::Snapshot), cached[file], "{variant}");
        }
        for variant in [None, Some("Q4_K_M"), Some("M-Q8_0.gguf")] {
            let text = chosen_of(&cached, variant, Place::Snapshot);
            assert!(text.contains("only Q8_0, UD-Q4_K_M are cached"), "{text}");
        }
        assert_eq!(chosen_of(&["m-q4_k_m.gguf"], None, Place::Snapshot), "m-q4_k_m.gguf");
        let text = chosen_of(&["m.gguf"], None, Place::Snapshot);
        assert!(text.ends_with("only m is cached: ask for it as in :m"), "{text}");
    }
}
