//! What the user's environment says: cache folders, hub settings, retries.

use super::hub::HubConfig;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

type Lookup = Arc<dyn Fn(&str) -> Option<String> + Send + Sync>;

/// Everything outside the manifests that fetching depends on.
#[derive(Clone)]
pub struct FetchEnv {
    /// The user cache: `$IDIOLECT_CACHE`, else `$XDG_CACHE_HOME/idiolect`, else `~/.cache/idiolect`.
    pub cache: PathBuf,
    pub hub: HubConfig,
    pub retry: Retry,
    /// Programs tried, in order, to run `-m pip`.
    pub python: Vec<PathBuf>,
    variables: Lookup,
}

/// How often and how patiently a passing failure is tried again.
#[derive(Debug, Clone, Copy)]
pub struct Retry {
    /// Attempts in a row that may end without a new byte.
    pub attempts: u32,
    /// The first wait; each further one is twice as long, up to `longest`.
    pub first: Duration,
    pub longest: Duration,
}

impl Default for Retry {
    fn default() -> Self {
        Self { attempts: 6, first: Duration::from_millis(500), longest: Duration::from_secs(30) }
    }
}

impl FetchEnv {
    /// The environment of this process.
    pub fn from_process() -> Self {
        Self::from_lookup(|name| std::env::var(name).ok())
    }

    /// An environment whose variables come from `lookup`. A variable set to nothing counts as not set.
    pub fn from_lookup(lookup: impl Fn(&str) -> Option<String> + Send + Sync + 'static) -> Self {
        let variables: Lookup = Arc::new(move |name| lookup(name).filter(|v| !v.trim().is_empty()));
        let folder = |name: &str| variables(name).map(|v| home_expanded(&v, &variables));
        // Without any home, the working directory is the one place that is known to exist.
        let home = folder("HOME").or_else(|| folder("USERPROFILE")).unwrap_or_else(|| PathBuf::from("."));
        let caches = folder("XDG_CACHE_HOME").unwrap_or_else(|| home.join(".cache"));
        let cache = folder("IDIOLECT_CACHE").unwrap_or_else(|| caches.join("idiolect"));
        let hub_home = folder("HF_HOME").unwrap_or_else(|| caches.join("huggingface"));
        let hub_cache = folder("HF_HUB_CACHE").or_else(|| folder("HUGGINGFACE_HUB_CACHE"));
        let token_file = folder("HF_TOKEN_PATH").unwrap_or_else(|| hub_home.join("token"));
        let token = variables("HF_TOKEN").or_else(|| variables("HUGGING_FACE_HUB_TOKEN")).or_else(|| {
            let text = std::fs::read_to_string(token_file).ok()?;
            Some(text).filter(|t| !t.trim().is_empty())
        });
        let hub = HubConfig {
            endpoint: variables("HF_ENDPOINT")
                .map_or_else(|| HubConfig::ENDPOINT.to_string(), |e| e.trim_end_matches('/').to_string()),
            token: token.map(|t| t.trim().to_string()),
            cache: hub_cache.unwrap_or_else(|| hub_home.join("hub")),
            offline: variables("HF_HUB_OFFLINE").is_some_and(|v| is_true(&v)),
        };
        let python = vec![PathBuf::from("python3"), PathBuf::from("python")];
        Self { cache, hub, retry: Retry::default(), python, variables }
    }

    /// An environment variable.
    pub fn variable(&self, name: &str) -> Option<String> {
        (self.variables)(name)
    }

    /// Replaces each `${NAME}`; `Err` is the name of the first variable that is not set.
    pub fn expand(&self, text: &str) -> Result<String, String> {
        let mut out = String::new();
        let mut rest = text;
        while let Some(start) = rest.find("${") {
            let Some(length) = rest[start + 2..].find('}') else { break };
            let name = &rest[start + 2..start + 2 + length];
            out.push_str(&rest[..start]);
            out.push_str(&self.variable(name).ok_or_else(|| name.to_string())?);
            rest = &rest[start + 2 + length + 1..];
        }
        out.push_str(rest);
        Ok(out)
    }
}

impl std::fmt::Debug for FetchEnv {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FetchEnv").field("cache", &self.cache).field("hub", &self.hub).finish_non_exhaustive()
    }
}

fn home_expanded(path: &str, variables: &Lookup) -> PathBuf {
    match (path.strip_prefix("~/"), variables("HOME")) {
        (Some(rest), Some(home)) => Path::new(&home).join(rest),
        _ => PathBuf::from(path),
    }
}

/// As the hub's own client reads switches.
fn is_true(value: &str) -> bool {
    matches!(value.trim().to_ascii_lowercase().as_str(), "1" | "true" | "yes" | "on")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn env(pairs: &'static [(&'static str, &'static str)]) -> FetchEnv {
        FetchEnv::from_lookup(move |name| pairs.iter().find(|(n, _)| *n == name).map(|(_, v)| v.to_string()))
    }

    #[test]
    fn caches_follow_the_variables_in_their_order() {
        let plain = env(&[("HOME", "/home/u")]);
        assert_eq!(plain.cache, Path::new("/home/u/.cache/idiolect"));
        assert_eq!(plain.hub.cache, Path::new("/home/u/.cache/huggingface/hub"));
        assert_eq!(plain.hub.endpoint, HubConfig::ENDPOINT);
        let xdg = env(&[("HOME", "/home/u"), ("XDG_CACHE_HOME", "/c")]);
        assert_eq!(
            (xdg.cache.as_path(), xdg.hub.cache.as_path()),
            (Path::new("/c/idiolect"), Path::new("/c/huggingface/hub"))
        );
        let own = env(&[("HOME", "/h"), ("IDIOLECT_CACHE", "~/i"), ("HF_HOME", "/hf"), ("HF_ENDPOINT", "http://m/")]);
        assert_eq!((own.cache.as_path(), own.hub.cache.as_path()), (Path::new("/h/i"), Path::new("/hf/hub")));
        assert_eq!(own.hub.endpoint, "http://m");
        assert_eq!(env(&[("HF_HOME", "/hf"), ("HF_HUB_CACHE", "/x")]).hub.cache, Path::new("/x"));
    }

    #[test]
    fn an_empty_variable_counts_as_not_set() {
        let e = env(&[("HOME", "/home/u"), ("IDIOLECT_CACHE", ""), ("HF_TOKEN", " "), ("HF_HUB_OFFLINE", "YES")]);
        assert_eq!(e.cache, Path::new("/home/u/.cache/idiolect"));
        assert_eq!(e.hub.token, None);
        assert!(e.hub.offline);
        assert!(!env(&[("HF_HUB_OFFLINE", "0")]).hub.offline);
    }

    #[test]
    fn the_token_is_read_from_the_file_under_the_hub_home() {
        let home = tempfile::tempdir().unwrap();
        std::fs::write(home.path().join("token"), "hf_secret\n").unwrap();
        let folder = home.path().to_str().unwrap().to_string();
        let e = FetchEnv::from_lookup(move |name| (name == "HF_HOME").then(|| folder.clone()));
        assert_eq!(e.hub.token.as_deref(), Some("hf_secret"));
    }

    #[test]
    fn variables_expand_and_a_missing_one_is_named() {
        let e = env(&[("DATA", "/d")]);
        assert_eq!(e.expand("${DATA}/x").as_deref(), Ok("/d/x"));
        assert_eq!(e.expand("${NOPE}/x"), Err("NOPE".to_string()));
        assert_eq!(e.expand("a${DATA").as_deref(), Ok("a${DATA"));
    }
}
