//! How a loaded model runs a step: its program's nodes in stages, each of which runs in one go.

use std::fmt::Write as _;
use std::ops::Range;

use crate::Program;
use crate::program::Node;

/// Which order a kernel sums in. Kernels with equal ids give equal bits for equal rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct OrderId(pub &'static str);

/// Consecutive nodes that run as one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stage {
    /// Indices of the nodes, in the [program that runs](crate::Executable::program).
    pub nodes: Range<usize>,
    /// The order in which each node sums.
    pub orders: Vec<OrderId>,
    /// What the device runs for it, one text a launch; empty where the backend has no launches.
    pub launches: Vec<String>,
}

/// Names that are written out; more are counted.
const FEW: usize = 3;

/// What consecutive nodes are called: the names of a few, or the first and the last of many.
pub fn stage_name(nodes: &[Node]) -> String {
    few(&nodes.iter().map(|node| node.op.stem()).collect::<Vec<_>>())
}

fn few(names: &[&str]) -> String {
    match names {
        [first, .., last] if names.len() > FEW => format!("{first} .. {last}, {} ops", names.len()),
        names => names.join(" + "),
    }
}

/// A schedule as text: a line for each launch, with the stage's nodes before its first.
pub fn schedule_text(program: &Program, stages: &[Stage]) -> String {
    let mut text = String::new();
    for stage in stages {
        let (first, last) = (stage.nodes.start, stage.nodes.end.saturating_sub(1));
        let nodes = if first == last { first.to_string() } else { format!("{first}-{last}") };
        let ops = stage_name(&program.nodes[stage.nodes.clone()]);
        let mut orders: Vec<_> = stage.orders.iter().map(|order| order.0).collect();
        if orders.len() > FEW {
            orders.sort_unstable();
            orders.dedup();
        }
        let orders = orders.join(" + ");
        let mut before = format!("{nodes:>7}  {ops:<26}  {orders:<34}");
        let launches = if stage.launches.is_empty() { &[String::new()][..] } else { &stage.launches };
        for launch in launches {
            let _ = writeln!(text, "{}", format!("{before}  {launch}").trim_end());
            before = " ".repeat(before.chars().count());
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{AxisRole, SpecBuilder};

    #[test]
    fn many_ops_are_counted() {
        assert_eq!(few(&["add"]), "add");
        assert_eq!(few(&["rms_norm", "gather_rows", "linear"]), "rms_norm + gather_rows + linear");
        assert_eq!(few(&["rms_norm", "linear", "add", "linear"]), "rms_norm .. linear, 4 ops");
    }

    #[test]
    fn a_line_for_each_launch() {
        let mut builder = SpecBuilder::new();
        let table = builder.matrix("table", 8, AxisRole::Replicated, [("t".into(), 8, AxisRole::Replicated)]);
        let norm = builder.vector("norm", "n", 8);
        let mut p = builder.program("generate");
        let x = p.embed(table);
        let normed = p.rms_norm(x, norm, 1e-6);
        p.linear(normed, table);
        let program = p.finish().unwrap();
        let launches = |names: &[&str]| names.iter().map(ToString::to_string).collect();
        let stages = [
            Stage { nodes: 0..1, orders: vec![OrderId("any")], launches: Vec::new() },
            Stage {
                nodes: 1..3,
                orders: vec![OrderId("a"), OrderId("b")],
                launches: launches(&["one", "two"]),
            },
        ];
        let lines: Vec<String> = schedule_text(&program, &stages).lines().map(Into::into).collect();
        assert_eq!(lines.len(), 3);
        assert_eq!(lines[0].split_whitespace().collect::<Vec<_>>(), ["0", "embed", "any"]);
        let words: Vec<_> = lines[1].split_whitespace().collect();
        assert_eq!(words, ["1-2", "rms_norm", "+", "linear", "a", "+", "b", "one"]);
        assert_eq!(lines[2].trim(), "two");
        assert_eq!(lines[1].find("one"), lines[2].find("two"), "launches stand under each other");
    }
}
