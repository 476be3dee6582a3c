//! The metrics that filters keep themselves, with a bound on how many series a filter may open.

use std::collections::HashMap;
use std::sync::Mutex;

use super::cells::lock;
use super::render::Exposition;

/// Series that one filter may open.
const MAX_SERIES: usize = 1000;
const MAX_LABELS: usize = 10;
const MAX_TEXT: usize = 256;
const BOUNDS: [f64; 13] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

/// Why a filter's metric was not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PluginMetricError {
    #[error("metric name `{0}` is not of the form [a-zA-Z_][a-zA-Z0-9_]* or is over 256 bytes")]
    Name(String),
    #[error("label `{0}` has a bad or repeated name, or a value over 256 bytes")]
    Label(String),
    #[error("a metric has at most 10 labels")]
    TooManyLabels,
    #[error("metric `{0}` exists with another type")]
    Type(String),
    #[error("value is not a finite number")]
    Value,
    #[error("the filter has its maximum of 1000 metric series")]
    TooManySeries,
}

/// All metrics of all filters; shared by the workers.
#[derive(Debug, Default)]
pub struct PluginMetrics {
    families: Mutex<Families>,
}

#[derive(Debug, Default)]
struct Families {
    kinds: HashMap<String, &'static str>,
    series: HashMap<Key, Value>,
    /// Series opened by each filter.
    opened: HashMap<String, usize>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Key {
    name: String,
    filter: String,
    labels: Vec<(String, String)>,
}

#[derive(Debug, Clone)]
enum Value {
    Count(u64),
    Gauge(f64),
    Histogram(Box<[u64; BOUNDS.len() + 1]>, f64),
}

impl PluginMetrics {
    /// Adds to the counter `sluice_plugin_NAME_total`.
    pub fn count(
        &self,
        filter: &str,
        name: &str,
        labels: &[(&str, &str)],
        delta: u64,
    ) -> Result<(), PluginMetricError> {
        self.update(filter, name, labels, "counter", Value::Count(0), |value| {
            if let Value::Count(count) = value {
                *count = count.saturating_add(delta);
            }
        })
    }

    /// Sets the gauge `sluice_plugin_NAME`.
    pub fn gauge(&self, filter: &str, name: &str, labels: &[(&str, &str)], to: f64) -> Result<(), PluginMetricError> {
        if !to.is_finite() {
            return Err(PluginMetricError::Value);
        }
        self.update(filter, name, labels, "gauge", Value::Gauge(0.0), |value| *value = Value::Gauge(to))
    }

    /// Adds a value to the histogram `sluice_plugin_NAME`, with buckets from 0.001 to 10.
    pub fn observe(
        &self,
        filter: &str,
        name: &str,
        labels: &[(&str, &str)],
        seen: f64,
    ) -> Result<(), PluginMetricError> {
        if !seen.is_finite() {
            return Err(PluginMetricError::Value);
        }
        let empty = Value::Histogram(Box::new([0; BOUNDS.len() + 1]), 0.0);
        self.update(filter, name, labels, "histogram", empty, |value| {
            if let Value::Histogram(counts, sum) = value {
                let bucket = BOUNDS.iter().position(|bound| seen <= *bound).unwrap_or(BOUNDS.len());
                counts[bucket] += 1;
                *sum += seen;
            }
        })
    }

    fn update(
        &self,
        filter: &str,
        name: &str,
        labels: &[(&str, &str)],
        kind: &'static str,
        empty: Value,
        change: impl FnOnce(&mut Value),
    ) -> Result<(), PluginMetricError> {
        let key = Key { name: family_name(name, kind)?, filter: filter.to_owned(), labels: checked_labels(labels)? };
        let mut families = lock(&self.families);
        let Families { kinds, series, opened } = &mut *families;
        if kinds.get(&key.name).is_some_and(|known| *known != kind) {
            return Err(PluginMetricError::Type(name.to_owned()));
        }
        if let Some(value) = series.get_mut(&key) {
            change(value);
            return Ok(());
        }
        let used = opened.entry(key.filter.clone()).or_default();
        if *used >= MAX_SERIES {
            return Err(PluginMetricError::TooManySeries);
        }
        *used += 1;
        kinds.insert(key.name.clone(), kind);
        change(series.entry(key).or_insert(empty));
        Ok(())
    }

    pub(super) fn render(&self, out: &mut Exposition) {
        let (kinds, mut series) = {
            let families = lock(&self.families);
            let series: Vec<(Key, Value)> =
                families.series.iter().map(|(key, value)| (key.clone(), value.clone())).collect();
            (families.kinds.clone(), series)
        };
        series.sort_by(|(a, _), (b, _)| a.cmp(b));
        let mut family = "";
        for (key, value) in &series {
            if key.name != family {
                family = &key.name;
                out.family(family, kinds.get(family).copied().unwrap_or("untyped"), "Kept by a filter.");
            }
            let mut labels = vec![("filter", &*key.filter)];
            labels.extend(key.labels.iter().map(|(name, value)| (&**name, &**value)));
            match value {
                Value::Count(count) => out.sample(family, &labels, *count as f64),
                Value::Gauge(value) => out.sample(family, &labels, *value),
                Value::Histogram(counts, sum) => out.histogram(family, &labels, &BOUNDS, &counts[..], *sum),
            }
        }
    }
}

fn family_name(name: &str, kind: &str) -> Result<String, PluginMetricError> {
    if !is_identifier(name) {
        return Err(PluginMetricError::Name(name.chars().take(64).collect()));
    }
    let suffix = if kind == "counter" && !name.ends_with("_total") { "_total" } else { "" };
    Ok(format!("sluice_plugin_{name}{suffix}"))
}

fn checked_labels(labels: &[(&str, &str)]) -> Result<Vec<(String, String)>, PluginMetricError> {
    if labels.len() > MAX_LABELS {
        return Err(PluginMetricError::TooManyLabels);
    }
    let mut checked: Vec<(String, String)> = Vec::with_capacity(labels.len());
    for (name, value) in labels {
        let reserved = matches!(*name, "filter" | "le") || name.starts_with("__");
        let repeated = checked.iter().any(|(known, _)| known == name);
        if reserved || repeated || !is_identifier(name) || value.len() > MAX_TEXT {
            return Err(PluginMetricError::Label(name.chars().take(64).collect()));
        }
        checked.push(((*name).to_owned(), (*value).to_owned()));
    }
    checked.sort();
    Ok(checked)
}

fn is_identifier(name: &str) -> bool {
    name.len() <= MAX_TEXT
        && name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(metrics: &PluginMetrics) -> String {
        let mut out = Exposition::default();
        metrics.render(&mut out);
        out.finish()
    }

    #[test]
    fn three_types_are_rendered_with_their_filter() {
        let metrics = PluginMetrics::default();
        metrics.count("auth", "logins", &[("kind", "jwt")], 2).expect("a counter");
        metrics.count("auth", "logins", &[("kind", "jwt")], 3).expect("the same counter");
        metrics.gauge("auth", "keys", &[], 4.5).expect("a gauge");
        metrics.observe("auth", "age", &[], 0.3).expect("a histogram");
        let text = text(&metrics);
        assert!(text.contains("sluice_plugin_logins_total{filter=\"auth\",kind=\"jwt\"} 5\n"), "{text}");
        assert!(text.contains("sluice_plugin_keys{filter=\"auth\"} 4.5\n"), "{text}");
        assert!(text.contains("sluice_plugin_age_bucket{filter=\"auth\",le=\"0.25\"} 0\n"), "{text}");
        assert!(text.contains("sluice_plugin_age_bucket{filter=\"auth\",le=\"0.5\"} 1\n"), "{text}");
    }

    #[test]
    fn names_types_and_the_number_of_series_are_bounded() {
        let metrics = PluginMetrics::default();
        assert_eq!(metrics.count("f", "a b", &[], 1), Err(PluginMetricError::Name("a b".into())));
        assert_eq!(metrics.count("f", "a", &[("le", "1")], 1), Err(PluginMetricError::Label("le".into())));
        assert_eq!(metrics.gauge("f", "a", &[], f64::NAN), Err(PluginMetricError::Value));
        metrics.gauge("f", "a", &[], 1.0).expect("a gauge");
        assert_eq!(metrics.observe("f", "a", &[], 1.0), Err(PluginMetricError::Type("a".into())));
        for i in 1..MAX_SERIES {
            metrics.count("f", "n", &[("i", &i.to_string())], 1).expect("within the bound");
        }
        assert_eq!(metrics.count("f", "n", &[("i", "more")], 1), Err(PluginMetricError::TooManySeries));
        metrics.count("f", "n", &[("i", "1")], 1).expect("known series go on");
        metrics.count("g", "n", &[], 1).expect("another filter has its own bound");
    }
}
