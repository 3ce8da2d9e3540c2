//! What models cost: the providers' prices as of a day, in `prices.json`, and those of a declaration.

use crate::config::{Api, Hosted, Price};
use crate::teacher::Usage;
use serde::Deserialize;
use std::collections::HashMap;
use std::sync::LazyLock;

/// (input, output, cached input), US dollars for a million tokens.
#[derive(Deserialize)]
#[serde(untagged)]
enum Row {
    Plain(f64, f64),
    Cached(f64, f64, f64),
}

#[derive(Deserialize)]
struct Table {
    as_of: String,
    openai: HashMap<String, Row>,
    anthropic: HashMap<String, Row>,
}

static TABLE: LazyLock<Table> =
    LazyLock::new(|| serde_json::from_str(include_str!("prices.json")).expect("a test reads the table"));

/// The day of the built-in prices.
pub fn as_of() -> &'static str {
    &TABLE.as_of
}

/// What a teacher's tokens cost: as its declaration says, otherwise as its provider does. A model behind another
/// address than the provider's own has no known price, whatever its name. The built-in price of a batch is half; a
/// declared one is taken as it stands.
pub fn price(hosted: &Hosted) -> Option<Price> {
    hosted.price.or_else(|| {
        let (table, host) = match hosted.api {
            Api::OpenAi => (&TABLE.openai, "api.openai.com"),
            Api::Anthropic => (&TABLE.anthropic, "api.anthropic.com"),
        };
        let own = |url: &str| reqwest::Url::parse(url).is_ok_and(|u| u.host_str() == Some(host));
        hosted.base_url.as_ref().is_none_or(|url| own(&url.value)).then_some(())?;
        let (input, output, cached_input) = match *table.get(&hosted.model.value)? {
            Row::Plain(input, output) => (input, output, None),
            Row::Cached(input, output, cached) => (input, output, Some(cached)),
        };
        let share = if hosted.batch { 0.5 } else { 1.0 };
        Some(Price { input: share * input, output: share * output, cached_input: cached_input.map(|c| share * c) })
    })
}

impl Price {
    /// US dollars for a call.
    pub fn of(&self, usage: &Usage) -> f64 {
        let cached = usage.cached_tokens.min(usage.input_tokens);
        let fresh = usage.input_tokens - cached;
        let read = fresh as f64 * self.input + cached as f64 * self.cached_input.unwrap_or(self.input);
        (read + usage.output_tokens as f64 * self.output) / 1e6
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::teacher::hosted::tests::declared;

    #[test]
    fn a_price_is_that_of_the_declaration_or_of_the_provider() {
        let mut teacher = declared(Api::OpenAi, None);
        teacher.model.value = "gpt-4-1106-preview".into();
        assert_eq!(price(&teacher), Some(Price { input: 10.0, output: 30.0, cached_input: None }));
        teacher.batch = true;
        assert_eq!(price(&teacher), Some(Price { input: 5.0, output: 15.0, cached_input: None }));
        teacher.base_url = Some(crate::diag::Spanned::new("https://elsewhere.example/v1".into(), teacher.model.span));
        assert_eq!(price(&teacher), None);
        let own = Price { input: 1.0, output: 2.0, cached_input: Some(0.5) };
        teacher.price = Some(own);
        assert_eq!(price(&teacher), Some(own));
        let mut teacher = declared(Api::Anthropic, None);
        teacher.model.value = "claude-3-5-sonnet-20240620".into();
        assert_eq!(price(&teacher), Some(Price { input: 3.0, output: 15.0, cached_input: Some(0.3) }));
        assert!(as_of().starts_with("20"));
    }

    #[test]
    fn tokens_of_the_cache_are_cheaper() {
        let price = Price { input: 2.0, output: 8.0, cached_input: Some(0.5) };
        let usage = Usage { input_tokens: 1_000_000, cached_tokens: 400_000, output_tokens: 100_000 };
        assert!((price.of(&usage) - (1.2 + 0.2 + 0.8)).abs() < 1e-12);
        let price = Price { cached_input: None, ..price };
        assert!((price.of(&usage) - 2.8).abs() < 1e-12);
    }
}
