//! From rounds to medians: per-round ratios to the raw loop of the same round.

use serde_json::{Value, json};

/// The result with a summary beside the rounds.
pub fn of(result: &Value) -> Value {
    let rounds = result["rounds"].as_array().map(Vec::as_slice).unwrap_or_default();
    let raws: Vec<f64> = rounds.iter().map(|round| rate(&round["raw"])).collect();
    let settings = rounds.first().and_then(|round| round["primary"].as_array());
    let primaries: Vec<Value> = (0..settings.map_or(0, Vec::len))
        .map(|n| {
            let runs: Vec<&Value> = rounds.iter().map(|round| &round["primary"][n]).collect();
            let rates: Vec<f64> = runs.iter().map(|run| rate(run)).collect();
            let ratios = rates.iter().zip(&raws).map(|(rate, raw)| rate / raw).collect();
            let idle = runs.iter().filter_map(|run| run["idleCpuMicrosPerSecond"].as_f64());
            json!({
                "workers": runs[0]["workers"],
                "waiting": runs[0]["waiting"],
                "connectionsPerCoreSecond": spread(rates),
                "ratioToRaw": spread(ratios),
                "idleCpuMicrosPerSecond": spread(idle.collect()),
            })
        })
        .collect();
    json!({
        "raw": { "connectionsPerCoreSecond": spread(raws) },
        "primary": primaries,
        "waiting": result["waiting"],
        "rounds": rounds,
    })
}

/// Connections per second of processor time.
fn rate(run: &Value) -> f64 {
    let number = |field: &str| run[field].as_f64().unwrap_or(f64::NAN);
    number("connections") / number("cpuMicros") * 1e6
}

/// The median, and how far values spread: quartiles and all.
fn spread(mut values: Vec<f64>) -> Value {
    values.sort_by(f64::total_cmp);
    json!({
        "median": quantile(&values, 2),
        "low": quantile(&values, 1),
        "high": quantile(&values, 3),
        "min": values.first(),
        "max": values.last(),
    })
}

/// So many quarters into the sorted values; between two of them, the share of each.
fn quantile(sorted: &[f64], quarters: usize) -> Option<f64> {
    let steps = sorted.len().checked_sub(1)? * quarters;
    let below = sorted[steps / 4];
    let above = sorted[steps.div_ceil(4)];
    let share = [0.0, 0.25, 0.5, 0.75][steps % 4];
    Some(below + (above - below) * share)
}
