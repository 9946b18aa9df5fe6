//! A page of metrics that is filled once, and its text.

use prometheus::{GaugeVec, IntCounterVec, Opts, Registry, TextEncoder};

/// Values by their labels'.
pub(super) type Series<'a, T> = Vec<(Vec<&'a str>, T)>;

/// A registry that is filled once.
#[derive(Default)]
pub(super) struct Page {
    registry: Registry,
}

impl Page {
    pub(super) fn gauge(
        &self,
        name: &str,
        help: &str,
        labels: &[&str],
        series: Series<'_, f64>,
    ) -> prometheus::Result<()> {
        let gauge = GaugeVec::new(Opts::new(name, help), labels)?;
        for (values, value) in series {
            gauge.get_metric_with_label_values(&values)?.set(value);
        }
        self.registry.register(Box::new(gauge))
    }

    pub(super) fn counter(
        &self,
        name: &str,
        help: &str,
        labels: &[&str],
        series: Series<'_, u64>,
    ) -> prometheus::Result<()> {
        let counter = IntCounterVec::new(Opts::new(name, help), labels)?;
        for (values, value) in series {
            counter.get_metric_with_label_values(&values)?.inc_by(value);
        }
        self.registry.register(Box::new(counter))
    }

    /// The page in the text format.
    pub(super) fn text(&self) -> prometheus::Result<String> {
        TextEncoder::new().encode_to_string(&self.registry.gather())
    }
}
