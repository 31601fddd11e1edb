//! The table of a run: every figure computed from records, nothing else.

use super::record::{Kind, Record};

/// The middle value; the mean of the two middle ones of an even number.
pub(super) fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    let half = values.len() / 2;
    match values.len() {
        0 => f64::NAN,
        n if n % 2 == 0 => f64::midpoint(values[half - 1], values[half]),
        _ => values[half],
    }
}

impl Record {
    /// Median time of one unit.
    fn unit_seconds(&self) -> f64 {
        median(self.seconds.iter().copied())
    }

    /// Median over the pairs: rate at which the units streamed their bytes, by rate of the read beside them.
    fn share(&self) -> Option<f64> {
        let b = self.bandwidth.as_ref()?;
        let pairs = self.seconds.chunks(b.units_per_read).zip(&b.read_seconds);
        Some(median(pairs.map(|(units, read)| {
            let unit = median(units.iter().copied());
            (b.bytes_per_unit / unit) / (b.read_bytes as f64 / read)
        })))
    }

    /// Median rate of the reads, in bytes a second.
    fn read_rate(&self) -> Option<f64> {
        let b = self.bandwidth.as_ref()?;
        Some(b.read_bytes as f64 / median(b.read_seconds.iter().copied()))
    }

    /// Tokens a second, of prompt or output.
    fn rate(&self) -> Option<f64> {
        match self.kind {
            Kind::Decode => Some(self.batch as f64 / self.unit_seconds()),
            Kind::Prefill => Some((self.batch * self.prompt_tokens) as f64 / self.unit_seconds()),
            Kind::FirstToken => None,
        }
    }

    fn workload(&self) -> String {
        let (prompt, output) = (self.prompt_tokens, self.output_tokens);
        match self.kind {
            Kind::Decode => format!("decode, batch {}, context {prompt} to {}", self.batch, prompt + output),
            Kind::Prefill if self.batch > 1 => format!("prefill of {} x {prompt}", self.batch),
            Kind::Prefill => format!("prefill of {prompt}"),
            Kind::FirstToken => format!("process start to first token, prompt of {prompt}"),
        }
    }

    /// What bounds the workload and how near it came.
    fn limit(&self) -> String {
        if let (Some(share), Some(rate)) = (self.share(), self.read_rate()) {
            return format!("{:.1} % of {:.1} GB/s read beside it", 100.0 * share, rate / 1e9);
        }
        if let Some(flops) = self.flops {
            return format!("{:.0} GFLOP/s", flops / self.unit_seconds() / 1e9);
        }
        match &self.warm_prefill_seconds {
            Some(warm) => {
                let beside = median(self.seconds.iter().zip(warm).map(|(all, prompt)| all - prompt));
                format!("{beside:.2} s beside the prompt itself")
            }
            None => "-".into(),
        }
    }
}

/// Markdown, one row a record, each peer with the ratio of our rate to its own.
pub(super) fn table(records: &[Record]) -> String {
    let mut text = String::from(
        "| workload | engine | median | tokens/s | of the limit | our rate to its |\n|---|---|---|---|---|---|\n",
    );
    for record in records {
        let rate = record.rate();
        let ours = records.iter().find(|r| r.kind == record.kind && r.engine.name == "nvllm");
        let ratio = match (ours.and_then(Record::rate), rate) {
            (Some(ours), Some(rate)) if record.engine.name != "nvllm" => format!("{:.2}x", ours / rate),
            _ => "-".into(),
        };
        text += &format!(
            "| {} | {} | {} | {} | {} | {ratio} |\n",
            record.workload(),
            record.engine.name,
            duration(record.unit_seconds()),
            rate.map_or("-".into(), |rate| format!("{rate:.1}")),
            record.limit(),
        );
    }
    text
}

/// The conditions, once for all records of a run.
pub(super) fn conditions(records: &[Record]) -> String {
    let Some(first) = records.first() else { return String::new() };
    let mut text = format!(
        "{} ({} parameters, sha256 {}), weights {}, activations {}, KV {}, {} threads\n{} on {} ({} processors), commit {}{}\n",
        first.model.name,
        first.model.num_parameters,
        &first.model.sha256[..first.model.sha256.len().min(12)],
        first.dtypes.weights,
        first.dtypes.activations,
        first.dtypes.kv,
        first.threads,
        first.engine.detail,
        first.machine.os,
        first.machine.num_cpus,
        &first.commit[..first.commit.len().min(12)],
        if first.dirty { " with local changes" } else { "" },
    );
    for record in records {
        let Some(correctness) = &record.correctness else { continue };
        let line = format!("{} {}: {}\n", record.engine.name, record.engine.version, correctness.detail);
        if !text.contains(&line) {
            text += &line;
        }
    }
    text
}

fn duration(seconds: f64) -> String {
    if seconds < 1.0 { format!("{:.2} ms", 1e3 * seconds) } else { format!("{seconds:.2} s") }
}

#[cfg(test)]
mod tests {
    use super::super::record::{Engine, tests::sample};
    use super::*;

    #[test]
    fn the_share_is_the_median_over_pairs() {
        // Both pairs stream 90 bytes in the time of a read of 100, whatever the machine did in between.
        assert!((sample().share().unwrap() - 0.9).abs() < 1e-12);
        let mut slow = sample();
        slow.bandwidth.as_mut().unwrap().read_seconds = vec![0.1, 0.1];
        assert!((slow.share().unwrap() - 0.675).abs() < 1e-12, "the mean of 0.9 and 0.45");
    }

    #[test]
    fn a_peer_is_shown_with_our_ratio() {
        let mut peer = sample();
        peer.engine = Engine { name: "other".into(), version: "1".into(), detail: String::new() };
        peer.bandwidth = None;
        peer.seconds = vec![0.3; 3];
        let table = table(&[sample(), peer]);
        assert!(
            table.contains("| nvllm | 150.00 ms | 6.7 | 90.0 % of 0.0 GB/s read beside it | - |"),
            "{table}"
        );
        assert!(table.contains("| other | 300.00 ms | 3.3 | - | 2.00x |"), "{table}");
    }

    #[test]
    fn medians() {
        assert!(median([3.0, 1.0, 2.0]) == 2.0 && median([4.0, 1.0]) == 2.5 && median([]).is_nan());
    }
}
