//! Which known word somebody may have meant.

use napi_derive::napi;

/// The word of `known` that is near enough to `word` to be meant, if one is: with a letter in three wrong at the most.
#[napi]
pub fn nearest(word: String, known: Vec<String>) -> Option<String> {
    let word = word.to_lowercase();
    let near = known.into_iter().filter_map(|known| {
        let wrong = strsim::damerau_levenshtein(&word, &known.to_lowercase());
        (wrong * 3 <= word.len().max(known.len())).then_some((wrong, known))
    });
    near.min_by_key(|&(wrong, _)| wrong).map(|(_, known)| known)
}
