#!/usr/bin/env bash
# plotters 0.3.7: a logarithmic axis has no light ticks below the first whole power of its base. Of an axis from 1,039
# to 210,000 they begin at 10,000, so that its first decade stands bare, where an axis from 1,000 has them from there
# on; and powers of the base behind the first are listed twice, so that their labels are drawn twice. Who draws a range
# that begins between two powers gives the key points.
#
# Needs cargo. Ends well if the ticks are those that were seen.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
mkdir "$dir/src"
cat >"$dir/Cargo.toml" <<'TOML'
[package]
name = "ticks"
version = "0.0.0"
edition = "2021"

[dependencies]
plotters = { version = "=0.3.7", default-features = false }
TOML
cat >"$dir/src/main.rs" <<'RS'
use plotters::coord::combinators::{IntoLogRange, LogCoord};
use plotters::coord::ranged1d::{LightPoints, Ranged};

fn main() {
    for from in [1000.0, 1039.0] {
        let axis: LogCoord<f64> = (from..2.1e5).log_scale().into();
        let light = axis.key_points(LightPoints::new(10, 40));
        let first = light.iter().copied().fold(f64::INFINITY, f64::min);
        let times = light.iter().filter(|&&x| x == 100_000.0).count();
        println!("from {from}: light ticks from {first}, 100000 is listed {times} times");
    }
}
RS
seen=$(cd "$dir" && cargo run --quiet 2>/dev/null)
echo "$seen"
[ "$seen" = "from 1000: light ticks from 1000, 100000 is listed 2 times
from 1039: light ticks from 10000, 100000 is listed 2 times" ]
