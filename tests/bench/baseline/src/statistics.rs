//! Parts of sorted values.

/// The value below which this share of the values lies. Sorts them.
pub(crate) fn quantile(values: &mut [f64], share: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "an index")]
    #[expect(clippy::cast_precision_loss, reason = "there are not that many values")]
    let index = (share * (values.len() - 1) as f64).round() as usize;
    values[index]
}
