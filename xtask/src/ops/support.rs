//! What each backend runs, as tables: of the docs, and of `--support`. No GPU is needed: the CUDA
//! and the wgpu backend answer through the profile of one.

use anyhow::Result;
use nvllm_conformance::{Named, Support, SupportTable, support_tables};
use nvllm_core::Reference;
use nvllm_cpu::{CpuBackend, PoolConfig};
use nvllm_cuda::DeviceProfile;
use nvllm_wgpu::AdapterProfile;

/// The tables in Markdown, each with the reasons under it.
pub(crate) fn block() -> Result<String> {
    let cpu = CpuBackend::new(&PoolConfig { threads: Some(1), ..PoolConfig::default() })?;
    let reference = Reference::default();
    let wgpu = AdapterProfile::desktop();
    let backends: [Named<'_>; 3] = [("cpu", &cpu), ("cuda", &DeviceProfile::H200), ("wgpu", &wgpu)];
    let tables = support_tables(("reference", &reference), &backends)?;
    Ok(tables.iter().map(markdown).collect::<Vec<_>>().join("\n"))
}

/// One table.
fn markdown(table: &SupportTable) -> String {
    let mut reasons: Vec<&str> = Vec::new();
    let mut text = format!("| {} | {} |\n", table.rows_are, table.columns.join(" | "));
    text += &format!("|---|{}\n", "---|".repeat(table.columns.len()));
    for (label, answers) in &table.rows {
        let cells: Vec<String> = answers.iter().map(|answer| cell(answer, &mut reasons)).collect();
        text += &format!("| {label} | {} |\n", cells.join(" | "));
    }
    if !reasons.is_empty() {
        text += "\n";
    }
    for (at, reason) in reasons.iter().enumerate() {
        text += &format!("{}. {reason}\n", at + 1);
    }
    text
}

/// An answer with the number of its reason.
fn cell<'a>(answer: &'a Support, reasons: &mut Vec<&'a str>) -> String {
    let (word, reason) = match answer {
        Support::Native => return "yes".into(),
        Support::Expanded(reason) => ("in parts", reason),
        Support::Refused(reason) => ("no", reason),
    };
    let at = reasons.iter().position(|other| other == reason).unwrap_or_else(|| {
        reasons.push(reason);
        reasons.len() - 1
    });
    format!("{word} ({})", at + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_are_numbered_once() {
        let no = |why: &str| Support::Refused(why.into());
        let table = SupportTable {
            rows_are: "op",
            columns: vec!["a".into(), "b".into()],
            rows: vec![
                ("x".into(), vec![Support::Native, no("one")]),
                ("y".into(), vec![Support::Expanded("two".into()), no("one")]),
            ],
        };
        let expected = "| op | a | b |\n|---|---|---|\n| x | yes | no (1) |\n| y | in parts (2) | no (1) |\n\
                        \n1. one\n2. two\n";
        assert_eq!(markdown(&table), expected);
    }
}
