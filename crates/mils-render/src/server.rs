//! What servers of all protocols have in common.

use crate::RenderError;
use mils_http::ureq::http::Response;
use mils_http::ureq::{self, Body};
use mils_http::{Client, Options, Words};
use serde::de::DeserializeOwned;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Most bytes of an answer: a picture in base64, of the largest size there is.
const MOST_BYTES: u64 = 256 << 20;

/// Which server, and how it is asked.
#[derive(Clone)]
pub struct ServerOptions {
    /// Its base: `http://localhost:8080/v1` of an OpenAI-compatible server, `http://localhost:7860` or `:8188` of the
    /// others.
    pub url: String,
    /// The model's name there, where it has several.
    pub model: Option<String>,
    /// Sent as a bearer token. Never shown.
    pub key: Option<String>,
    /// How long one picture may take.
    pub timeout: Duration,
    /// How often a picture is tried for, where the network or the server fails. What took too long is not.
    pub attempts: usize,
    /// The first pause before it is tried again.
    pub pause: Duration,
    /// Set by another thread to end the waiting.
    pub cancel: Arc<AtomicBool>,
}

impl Default for ServerOptions {
    fn default() -> Self {
        Self {
            url: String::new(),
            model: None,
            key: None,
            timeout: Duration::from_secs(300),
            attempts: 4,
            pause: Duration::from_secs(1),
            cancel: Arc::default(),
        }
    }
}

/// A way to a server.
pub(crate) struct Server {
    client: Client,
    base: String,
    cancel: Arc<AtomicBool>,
}

impl Server {
    pub(crate) fn new(options: &ServerOptions, words: Words) -> Result<Self, RenderError> {
        let url = &options.url;
        if !(url.starts_with("http://") || url.starts_with("https://")) {
            let problem = format!("{url} is no address of {}; it begins with http:// or https://", words.server);
            return Err(RenderError::Option(problem));
        }
        if options.attempts == 0 || options.timeout.is_zero() {
            return Err(RenderError::Option("attempts and timeout must be more than 0".into()));
        }
        let client = Client::new(Options {
            key: options.key.clone(),
            timeout: options.timeout,
            again_when_slow: false,
            attempts: options.attempts,
            pause: options.pause,
            most_bytes: MOST_BYTES,
            words,
            ..Options::default()
        });
        Ok(Self { client, base: url.trim_end_matches('/').to_owned(), cancel: Arc::clone(&options.cancel) })
    }

    /// Its address, for errors.
    pub(crate) fn base(&self) -> &str {
        &self.base
    }

    pub(crate) fn client(&self) -> &Client {
        &self.client
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("{}/{path}", self.base)
    }

    /// An address that the server has named, which may be relative to it.
    pub(crate) fn absolute(&self, url: &str) -> String {
        if url.starts_with("http://") || url.starts_with("https://") {
            return url.to_owned();
        }
        let host = self.base.match_indices('/').nth(2).map_or(&*self.base, |(at, _)| &self.base[..at]);
        format!("{host}/{}", url.trim_start_matches('/'))
    }

    pub(crate) fn cancelled(&self) -> bool {
        self.cancel.load(Ordering::SeqCst)
    }

    pub(crate) fn json<T: DeserializeOwned>(
        &self,
        send: &dyn Fn() -> Result<Response<Body>, ureq::Error>,
    ) -> Result<T, RenderError> {
        self.client.json(send, &|| self.cancelled()).map_err(|fault| RenderError::of(fault, &self.base))
    }

    pub(crate) fn bytes(&self, send: &dyn Fn() -> Result<Response<Body>, ureq::Error>) -> Result<Vec<u8>, RenderError> {
        self.client.bytes(send, &|| self.cancelled()).map_err(|fault| RenderError::of(fault, &self.base))
    }

    /// Asks something before the work, with the user waiting: not as often as in a long run.
    pub(crate) fn look<T: DeserializeOwned>(&self, path: &str) -> Result<T, RenderError> {
        let send = || self.client.get(&self.url(path)).call();
        let looked = self.client.json_within(2, &send, &|| self.cancelled());
        looked.map_err(|fault| RenderError::of(fault, &self.base))
    }

    pub(crate) fn protocol(&self, problem: &str) -> RenderError {
        RenderError::Protocol { at: self.base.clone(), problem: problem.to_owned() }
    }

    pub(crate) fn failed(&self, said: &str) -> RenderError {
        RenderError::Failed { at: self.base.clone(), said: mils_http::beginning(said) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_that_a_server_names_may_be_relative() {
        let options = ServerOptions { url: "http://host:80/v1/".into(), ..ServerOptions::default() };
        let server = Server::new(&options, Words::default()).unwrap();
        assert_eq!(server.absolute("/files/1.png"), "http://host:80/files/1.png");
        assert_eq!(server.absolute("https://cdn/x"), "https://cdn/x");
        assert_eq!(server.url("images"), "http://host:80/v1/images");
        let wrong = ServerOptions { url: "host:80".into(), ..ServerOptions::default() };
        assert!(Server::new(&wrong, Words::default()).is_err());
    }
}
