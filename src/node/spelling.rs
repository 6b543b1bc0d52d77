//! Which known word somebody may have meant.

use napi_derive::napi;

/// The word of `known` nearest to `word`, or nothing when there are none.
#[napi]
pub fn nearest(word: String, known: Vec<String>) -> Option<String> {
    known.into_iter().max_by(|a, b| {
        let [a, b] = [a, b].map(|known| strsim::jaro_winkler(&word, known));
        a.total_cmp(&b)
    })
}
