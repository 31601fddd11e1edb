//! Raw measurements as a record keeps them: short lists readable, long ones packed.

use std::io::{Read as _, Write as _};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use flate2::Compression;
use flate2::read::ZlibDecoder;
use flate2::write::ZlibEncoder;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Lists up to this length are written as plain numbers.
const PLAIN: usize = 16;
/// More values than any workload makes: a damaged length does not exhaust memory.
const MOST: usize = 1 << 24;

/// Values in the order measured, kept as whole multiples of a resolution so that writing and
/// reading loses nothing.
///
/// In JSON a short one is a list of numbers. A longer one is `{"len", "per_unit", "zlib"}`: base64
/// of the zlib stream of `len` little-endian 64-bit integers, each the difference from the one
/// before; their running sums divided by `per_unit` are the values.
#[derive(Clone, Debug)]
pub struct Series {
    per_unit: u64,
    values: Vec<i64>,
}

impl Series {
    /// Seconds, kept to the nanosecond.
    pub fn seconds(values: impl IntoIterator<Item = f64>) -> Self {
        Self::rounded(1_000_000_000, values)
    }

    /// Seconds in ascending order, kept to the microsecond: for pools so large that only their
    /// distribution is kept.
    pub fn seconds_sorted(values: impl IntoIterator<Item = f64>) -> Self {
        let mut series = Self::rounded(1_000_000, values);
        series.values.sort_unstable();
        series
    }

    /// Counts and rates, kept to the unit.
    pub fn whole(values: impl IntoIterator<Item = f64>) -> Self {
        Self::rounded(1, values)
    }

    /// Each value rounded to a multiple of `1 / per_unit`; what is no number becomes the most
    /// negative value, which [`Record::check`](crate::Record::check) refuses.
    fn rounded(per_unit: u64, values: impl IntoIterator<Item = f64>) -> Self {
        let round = |x: f64| if x.is_finite() { (x * per_unit as f64).round() as i64 } else { i64::MIN };
        Self { per_unit, values: values.into_iter().map(round).collect() }
    }

    /// The values.
    pub fn values(&self) -> impl ExactSizeIterator<Item = f64> + Clone + '_ {
        self.values.iter().map(|&value| value as f64 / self.per_unit as f64)
    }

    /// The values, collected.
    pub fn to_vec(&self) -> Vec<f64> {
        self.values().collect()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.values.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    /// Whether there are values and all are above zero.
    pub fn is_positive(&self) -> bool {
        !self.is_empty() && self.values.iter().all(|&value| value > 0)
    }
}

impl PartialEq for Series {
    /// Equal values, whatever the resolution.
    fn eq(&self, other: &Self) -> bool {
        self.values().eq(other.values())
    }
}

/// The two forms in JSON.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Form {
    Plain(Vec<f64>),
    Packed { len: usize, per_unit: u64, zlib: String },
}

impl Serialize for Series {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let form = if self.len() <= PLAIN {
            Form::Plain(self.to_vec())
        } else {
            let zlib = pack(&self.values).map_err(serde::ser::Error::custom)?;
            Form::Packed { len: self.len(), per_unit: self.per_unit, zlib }
        };
        form.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Series {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let bad = |problem: String| serde::de::Error::custom(problem);
        match Form::deserialize(deserializer)? {
            // Whole numbers are counts or rates; everything else in a record is seconds.
            Form::Plain(values) if values.iter().all(|x| x.fract() == 0.0) => Ok(Self::whole(values)),
            Form::Plain(values) => Ok(Self::seconds(values)),
            Form::Packed { per_unit: 0, .. } => Err(bad("per_unit is 0".into())),
            Form::Packed { len, per_unit, zlib } => {
                Ok(Self { per_unit, values: unpack(len, &zlib).map_err(bad)? })
            }
        }
    }
}

fn pack(values: &[i64]) -> std::io::Result<String> {
    let mut encoder = ZlibEncoder::new(Vec::new(), Compression::best());
    let mut before = 0_i64;
    for &value in values {
        encoder.write_all(&value.wrapping_sub(before).to_le_bytes())?;
        before = value;
    }
    Ok(STANDARD.encode(encoder.finish()?))
}

fn unpack(len: usize, text: &str) -> Result<Vec<i64>, String> {
    if len > MOST {
        return Err(format!("a series of {len} values; {MOST} are the most"));
    }
    let packed = STANDARD.decode(text).map_err(|e| format!("not base64: {e}"))?;
    let mut bytes = Vec::with_capacity(len * 8);
    // One byte more than wanted tells a stream that is too long.
    let limit = (len * 8 + 1) as u64;
    ZlibDecoder::new(&packed[..])
        .take(limit)
        .read_to_end(&mut bytes)
        .map_err(|e| format!("not zlib: {e}"))?;
    if bytes.len() != len * 8 {
        return Err(format!("a series of {len} values holds other than {} bytes", len * 8));
    }
    let (words, _) = bytes.as_chunks::<8>();
    let sums = words.iter().scan(0_i64, |sum, word| {
        *sum = sum.wrapping_add(i64::from_le_bytes(*word));
        Some(*sum)
    });
    Ok(sums.collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_was_written_is_read(values in prop::collection::vec(0.0_f64..1e4, 0..200), kind in 0_usize..3) {
            let series = match kind {
                0 => Series::seconds(values.clone()),
                1 => Series::seconds_sorted(values.clone()),
                _ => Series::whole(values.clone()),
            };
            let text = serde_json::to_string(&series).unwrap();
            let read: Series = serde_json::from_str(&text).unwrap();
            prop_assert_eq!(read.to_vec(), series.to_vec());
            let step = [1e-9, 1e-6, 1.0][kind];
            let mut wanted = values;
            if kind == 1 {
                wanted.sort_by(f64::total_cmp);
            }
            for (a, b) in series.values().zip(&wanted) {
                prop_assert!((a - b).abs() <= step, "{a} for {b}");
            }
        }
    }

    #[test]
    fn long_lists_are_small() {
        // Gaps between tokens as a batch makes them, at a hundred thousand tokens.
        let gaps = (0..100_000_u32).map(|i| 0.05 + f64::from(i.wrapping_mul(2_654_435_761) >> 12) * 1e-7);
        let text = serde_json::to_string(&Series::seconds_sorted(gaps)).unwrap();
        assert!(text.len() < 150_000, "{} bytes", text.len());
        let short = serde_json::to_string(&Series::seconds([0.25, 0.5])).unwrap();
        assert_eq!(short, "[0.25,0.5]");
    }

    #[test]
    fn damage_is_a_message() {
        let good = serde_json::to_string(&Series::seconds((0..20).map(f64::from))).unwrap();
        for bad in [
            good.replace("\"len\":20", "\"len\":21"),
            good.replace("\"len\":20", "\"len\":19"),
            good.replace("\"len\":20", "\"len\":99999999999"),
            good.replace("\"zlib\":\"", "\"zlib\":\"!"),
            good.replace("\"zlib\":\"eN", "\"zlib\":\"AA"),
            good.replace("1000000000", "0"),
            "7".into(),
        ] {
            assert!(serde_json::from_str::<Series>(&bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn what_is_no_positive_number_shows() {
        for bad in [f64::NAN, f64::INFINITY, 0.0, -1.0] {
            assert!(!Series::seconds([1.0, bad]).is_positive());
        }
        assert!(!Series::seconds([]).is_positive() && Series::seconds([1e-9]).is_positive());
    }
}
