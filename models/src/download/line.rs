//! Requests to the hub: redirects, what answers say of a file, what refusals mean, and trying again.
//!
//! Redirects are followed here and not by the HTTP client, for two reasons: the hub says what a file is in the answer that
//! redirects, and the token is for the hub alone.

use super::names::{self, one_line};
use super::{DownloadError, Hub};
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};
use ureq::http::{HeaderMap, Request, Response};
use ureq::{Agent, Body};
use url::Url;

/// Most redirects of one request.
const MOST_HOPS: usize = 10;
/// Longest pause between two attempts that nobody asked for.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// Longest pause that a server can ask for. The hub counts requests in windows of five minutes.
const MOST_PATIENCE: Duration = Duration::from_secs(310);
/// A pause from which on it is told.
const NOTED: Duration = Duration::from_secs(3);
/// How often a pause is looked up from.
const GLANCE: Duration = Duration::from_millis(50);
/// How long a host may take to be found and to take a connection.
const CONNECT: Duration = Duration::from_secs(15);
/// Most bytes of an answer that is not a file.
const MOST_BYTES: u64 = 64 << 20;

/// A way to the hub.
pub(super) struct Line {
    agent: Agent,
    endpoint: Url,
    token: Option<String>,
    attempts: usize,
    pause: Duration,
    stall: Duration,
    /// A server has answered: what fails from now on is likely to work again.
    reached: AtomicBool,
}

/// What is asked for, for errors.
#[derive(Clone, Copy)]
pub(super) struct Asked<'a> {
    pub repo: &'a str,
    pub revision: &'a str,
    pub file: &'a str,
}

/// Why an attempt gave nothing.
pub(super) enum Fault {
    /// It may work in a while.
    Again {
        /// What is said if it never does.
        error: Box<DownloadError>,
        /// How long the server asks to wait.
        after: Option<Duration>,
        /// It got further than any attempt before.
        progressed: bool,
    },
    /// It will not work.
    Never(DownloadError),
}

impl Fault {
    /// It may work in a while, as far as is known.
    pub(super) fn again(error: DownloadError) -> Self {
        Self::Again { error: Box::new(error), after: None, progressed: false }
    }
}

impl From<DownloadError> for Fault {
    fn from(error: DownloadError) -> Self {
        Self::Never(error)
    }
}

/// What the hub says of a file, in the first answer that does.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Told {
    pub commit: Option<String>,
    pub etag: Option<String>,
    pub size: Option<u64>,
}

/// An answer.
pub(super) struct Reply {
    pub status: u16,
    pub response: Response<Body>,
    pub told: Told,
    /// Who answered, for errors.
    pub host: String,
}

impl Line {
    pub(super) fn new(hub: &Hub) -> Self {
        let config = Agent::config_builder()
            .timeout_resolve(Some(CONNECT))
            .timeout_connect(Some(CONNECT))
            .timeout_per_read(Some(hub.stall))
            .timeout_per_write(Some(hub.stall))
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .user_agent(concat!("mils/", env!("CARGO_PKG_VERSION")));
        Self {
            agent: config.build().new_agent(),
            endpoint: hub.endpoint.clone(),
            token: hub.token.clone(),
            attempts: hub.attempts,
            pause: hub.pause,
            stall: hub.stall,
            reached: AtomicBool::new(false),
        }
    }

    /// Ends all requests that are under way, and allows no others.
    pub(super) fn cut(&self) {
        self.agent.clone().shutdown();
    }

    /// An address below the endpoint. Each part is escaped whole, with its slashes.
    pub(super) fn url<'a>(&self, parts: impl Iterator<Item = &'a str>) -> Url {
        let mut url = self.endpoint.clone();
        // An endpoint was checked to have a host, and so it has a path.
        if let Ok(mut path) = url.path_segments_mut() {
            path.pop_if_empty().extend(parts);
        }
        url
    }

    /// The address of a file. Its slashes stay: they are folders.
    pub(super) fn file(&self, asked: &Asked<'_>) -> Url {
        let parts = asked.repo.split('/').chain(["resolve", asked.revision]).chain(asked.file.split('/'));
        self.url(parts)
    }

    /// Asks for the head of a file, no further than until it is known what the file is.
    ///
    /// # Errors
    /// If no server says so.
    pub(super) fn head(&self, url: &Url, asked: &Asked<'_>) -> Result<Reply, Fault> {
        self.follow(true, url, None, asked)
    }

    /// Asks for something, or a file from some byte on. The status is 200, 206 or, where there is nothing from there on,
    /// 416.
    ///
    /// # Errors
    /// If no server gives it.
    pub(super) fn get(&self, url: &Url, from: Option<u64>, asked: &Asked<'_>) -> Result<Reply, Fault> {
        self.follow(false, url, from, asked)
    }

    fn follow(&self, head: bool, url: &Url, from: Option<u64>, asked: &Asked<'_>) -> Result<Reply, Fault> {
        let (mut url, mut told) = (url.clone(), Told::default());
        for _ in 0..=MOST_HOPS {
            let mut response = self.send(head, &url, from)?;
            let status = response.status().as_u16();
            told.take(response.headers(), status, head);
            let pinned = told.commit.is_some() || names::is_commit(asked.revision);
            let known = head && pinned && told.etag.is_some();
            match status {
                301 | 302 | 303 | 307 | 308 if !known => {
                    // Read to its end, a connection can be used again.
                    let _ = response.body_mut().with_config().limit(64 << 10).read_to_vec();
                    let location = header(response.headers(), "location").and_then(|to| url.join(to).ok());
                    let to = location.filter(|to| matches!(to.scheme(), "http" | "https") && to.has_host());
                    url = to.ok_or_else(|| answer(&url, "redirects to no address"))?;
                }
                200 | 206 | 300..=399 => return Ok(Reply { status, response, told, host: host(&url) }),
                416 if from.is_some() => return Ok(Reply { status, response, told, host: host(&url) }),
                _ => return Err(self.refusal(status, response, &url, asked)),
            }
        }
        Err(answer(&url, "redirects without end").into())
    }

    fn send(&self, head: bool, url: &Url, from: Option<u64>) -> Result<Response<Body>, Fault> {
        // What is compressed on the way has another length, and cannot be taken up in its middle.
        let mut request = Request::builder()
            .method(if head { "HEAD" } else { "GET" })
            .uri(url.as_str())
            .header("Accept-Encoding", "identity");
        if let Some(token) = self.token.as_ref().filter(|_| self.is_hub(url)) {
            request = request.header("Authorization", format!("Bearer {token}"));
        }
        if let Some(from) = from {
            request = request.header("Range", format!("bytes={from}-"));
        }
        let unusable = |_| answer(url, "has an address that cannot be asked");
        let request = request.body(()).map_err(unusable)?;
        let response = self.agent.run(request).map_err(|error| self.failed(url, &error))?;
        self.reached.store(true, Ordering::Relaxed);
        Ok(response)
    }

    /// Whether the token is for it: not another host, nor another port or scheme of this one.
    fn is_hub(&self, url: &Url) -> bool {
        url.origin() == self.endpoint.origin()
    }

    fn failed(&self, url: &Url, error: &ureq::Error) -> Fault {
        let unreachable = match error {
            ureq::Error::HostNotFound => true,
            ureq::Error::Io(error) => error.kind() == io::ErrorKind::ConnectionRefused,
            _ => false,
        };
        let problem = match error {
            ureq::Error::Timeout(_) => format!("did not answer in {} s", self.stall.as_secs_f32()),
            error => format!("cannot be reached ({}); is the network up?", one_line(&error.to_string())),
        };
        let error = DownloadError::Network { host: host(url), problem };
        if unreachable && !self.reached.load(Ordering::Relaxed) {
            return Fault::Never(error);
        }
        Fault::again(error)
    }

    /// What to make of reading that failed in the middle.
    pub(super) fn broke_off(&self, host: &str, error: &io::Error) -> DownloadError {
        let inner = error.get_ref().and_then(|e| e.downcast_ref::<ureq::Error>());
        let problem = match inner {
            Some(ureq::Error::Timeout(_)) => format!("sent nothing more for {} s", self.stall.as_secs_f32()),
            _ => format!("broke off ({})", one_line(&error.to_string())),
        };
        DownloadError::Network { host: host.to_owned(), problem }
    }

    /// What a status means that is no answer.
    fn refusal(&self, status: u16, response: Response<Body>, url: &Url, asked: &Asked<'_>) -> Fault {
        let headers = response.headers().clone();
        let said = said(response, &headers);
        let (repo, token) = (asked.repo.to_owned(), self.token.is_some());
        let revision = asked.revision.to_owned();
        let hub = self.is_hub(url);
        let error = match (header(&headers, "x-error-code"), status) {
            (Some("GatedRepo"), _) => {
                DownloadError::Gated { page: self.url(asked.repo.split('/')).to_string(), repo, token }
            }
            (Some("RevisionNotFound"), _) => DownloadError::NoRevision { repo, revision },
            (Some("EntryNotFound"), _) => DownloadError::NoFile { repo, revision, file: asked.file.to_owned() },
            (None, 401) if hub && token => DownloadError::Setting {
                setting: "the token (HF_TOKEN, or that of `hf auth login`)".into(),
                problem: format!("is refused by {}: {said}", host(url)),
            },
            // The hub does not tell a private repository from one that is not there.
            (Some("RepoNotFound"), _) | (None, 401) if hub => DownloadError::NoRepository { repo, token },
            (None, 404) if hub => DownloadError::NoFile { repo, revision, file: asked.file.to_owned() },
            (_, 408 | 425 | 429 | 500..=599) => {
                let error = DownloadError::Network { host: host(url), problem: format!("fails ({status}): {said}") };
                return patience(error, &headers);
            }
            // An address that the hub gave out for a while.
            (_, 401 | 403) if !hub => {
                let error = DownloadError::Refused { host: host(url), status, said };
                return Fault::again(error);
            }
            _ => DownloadError::Refused { host: host(url), status, said },
        };
        Fault::Never(error)
    }

    /// Attempts something until it works, as often as the hub's settings say without getting further.
    ///
    /// # Errors
    /// What the last attempt failed with.
    pub(super) fn tried<T>(
        &self,
        stopped: &dyn Fn() -> bool,
        note: &dyn Fn(&str),
        attempt: &mut dyn FnMut() -> Result<T, Fault>,
    ) -> Result<T, DownloadError> {
        let (mut failures, mut pause) = (0, self.pause);
        loop {
            if stopped() {
                return Err(DownloadError::Cancelled);
            }
            let (error, after, progressed) = match attempt() {
                Ok(result) => return Ok(result),
                Err(_) if stopped() => return Err(DownloadError::Cancelled),
                Err(Fault::Never(error)) => return Err(error),
                Err(Fault::Again { error, after, progressed }) => (*error, after, progressed),
            };
            if progressed {
                (failures, pause) = (0, self.pause);
            }
            failures += 1;
            if failures >= self.attempts {
                return Err(error);
            }
            let wait = after.unwrap_or(pause);
            if wait >= NOTED {
                note(&format!("{error}; trying again in {} s", wait.as_secs()));
            }
            let end = Instant::now() + wait;
            while Instant::now() < end && !stopped() {
                std::thread::sleep(GLANCE.min(end.saturating_duration_since(Instant::now())));
            }
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// An answer in JSON, and where the next part of it is.
    ///
    /// # Errors
    /// If there is none, or it is none.
    pub(super) fn json<T: serde::de::DeserializeOwned>(
        &self,
        url: &Url,
        asked: &Asked<'_>,
    ) -> Result<(T, Option<Url>), Fault> {
        let Reply { mut response, host, .. } = self.get(url, None, asked)?;
        let next = next_page(response.headers()).and_then(|next| url.join(&next).ok());
        let body = response.body_mut().with_config().limit(MOST_BYTES).lossy_utf8(true).read_to_string();
        let body = body.map_err(|error| Fault::again(self.broke_off(&host, &error.into_io())))?;
        let parsed = serde_json::from_str(&body).map_err(|_| answer(url, "does not answer as a hub does"))?;
        // Another host would be asked with no token, and for nothing that is the hub's to say.
        Ok((parsed, next.filter(|next| self.is_hub(next))))
    }
}

impl Told {
    fn take(&mut self, headers: &HeaderMap, status: u16, head: bool) {
        let tag = |name: &str| header(headers, name).and_then(names::etag);
        let number = |name: &str| header(headers, name).and_then(|text| text.trim().parse().ok());
        if self.commit.is_none() {
            self.commit = header(headers, "x-repo-commit").map(str::to_owned).filter(|c| names::is_commit(c));
        }
        // A redirect's own tag and length are not the file's.
        let here = matches!(status, 200 | 206);
        if self.etag.is_none() {
            self.etag = tag("x-linked-etag").or_else(|| tag("etag").filter(|_| here));
            let length = || number("content-length").filter(|_| here && head);
            self.size = self.size.or_else(|| number("x-linked-size")).or_else(length);
        } else if self.size.is_none() && here && head {
            self.size = number("content-length");
        }
    }
}

fn header<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

/// For errors.
fn host(url: &Url) -> String {
    match (url.host_str(), url.port()) {
        (Some(host), Some(port)) => format!("{host}:{port}"),
        (Some(host), None) => host.to_owned(),
        (None, _) => url.to_string(),
    }
}

fn answer(url: &Url, problem: &str) -> DownloadError {
    DownloadError::Answer { host: host(url), problem: problem.to_owned() }
}

/// What the server says in words.
fn said(mut response: Response<Body>, headers: &HeaderMap) -> String {
    if let Some(said) = header(headers, "x-error-message") {
        return one_line(said);
    }
    let body = response.body_mut().with_config().limit(64 << 10).lossy_utf8(true).read_to_string().unwrap_or_default();
    let value: serde_json::Value = serde_json::from_str(&body).unwrap_or_default();
    let said = one_line(value["error"].as_str().unwrap_or(&body));
    // A page for people says nothing in its first words.
    if said.is_empty() || said.starts_with('<') { "it does not say why".to_owned() } else { said }
}

/// Again, when the server says that it may be asked again.
fn patience(error: DownloadError, headers: &HeaderMap) -> Fault {
    let after = wait_for(headers, SystemTime::now());
    match after {
        Some(after) if after > MOST_PATIENCE => Fault::Never(error),
        after => Fault::Again { error: Box::new(error), after, progressed: false },
    }
}

/// `Retry-After`, in seconds or as a date, or the rest of the window of `RateLimit`, as the hub has it: `"api";r=0;t=55`.
fn wait_for(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let seconds = |text: &str| text.trim().parse().ok().and_then(|s| Duration::try_from_secs_f64(s).ok());
    if let Some(text) = header(headers, "retry-after") {
        let date = || Some(httpdate::parse_http_date(text.trim()).ok()?.duration_since(now).unwrap_or_default());
        return seconds(text).or_else(date);
    }
    let limit = header(headers, "ratelimit")?;
    limit.split(';').find_map(|field| seconds(field.trim().strip_prefix("t=")?))
}

/// `Link: <address>; rel="next"`.
fn next_page(headers: &HeaderMap) -> Option<String> {
    let links = header(headers, "link")?;
    let next = links.split(",<").find(|link| link.contains("rel=\"next\""))?;
    let (address, _) = next.trim().trim_start_matches('<').split_once('>')?;
    Some(address.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    fn headers(all: &[(&'static str, &str)]) -> HeaderMap {
        all.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect::<HeaderMap>()
    }

    #[test]
    fn a_pause_is_asked_for_in_three_ways() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777);
        let wait = |name, value| wait_for(&headers(&[(name, value)]), now);
        assert_eq!(wait("retry-after", "3"), Some(Duration::from_secs(3)));
        assert_eq!(wait("retry-after", "Sun, 06 Nov 1994 08:49:47 GMT"), Some(Duration::from_secs(10)));
        assert_eq!(wait("retry-after", "Sun, 06 Nov 1994 08:49:07 GMT"), Some(Duration::ZERO));
        assert_eq!(wait("ratelimit", "\"resolvers\";r=0;t=55"), Some(Duration::from_secs(55)));
        for nonsense in ["soon", "-3", "NaN", "1e99"] {
            assert_eq!(wait("retry-after", nonsense), None, "{nonsense}");
        }
    }

    #[test]
    fn the_next_page_is_found_among_links() {
        let next = |link| next_page(&headers(&[("link", link)]));
        assert_eq!(next("<https://h/a?b=c>; rel=\"next\"").as_deref(), Some("https://h/a?b=c"));
        assert_eq!(next("<x>; rel=\"prev\",<y>; rel=\"next\"").as_deref(), Some("y"));
        assert_eq!(next("<x>; rel=\"prev\""), None);
    }

    #[test]
    fn the_first_who_says_what_a_file_is_is_believed() {
        let (commit, sha256, git) = ("c".repeat(40), "a".repeat(64), "b".repeat(40));
        let mut told = Told::default();
        let quoted = format!("\"{sha256}\"");
        let redirect = [
            ("x-repo-commit", &commit[..]),
            ("x-linked-etag", &quoted[..]),
            ("x-linked-size", "7"),
            ("etag", &git[..]),
            ("content-length", "99"),
        ];
        told.take(&headers(&redirect), 302, true);
        let known = Told { commit: Some(commit.clone()), etag: Some(sha256), size: Some(7) };
        assert_eq!(told, known);
        told.take(&headers(&[("etag", "other"), ("content-length", "8")]), 200, true);
        assert_eq!(told, known);
        // A small file is answered by the hub itself; a redirect before it says nothing of it.
        let mut told = Told::default();
        told.take(&headers(&[("etag", "renamed"), ("content-length", "9")]), 307, true);
        told.take(&headers(&[("x-repo-commit", &commit), ("etag", &git), ("content-length", "5")]), 200, true);
        assert_eq!(told, Told { commit: Some(commit), etag: Some(git), size: Some(5) });
    }

    #[test]
    fn addresses_are_escaped_and_the_token_is_for_the_hub_alone() {
        let hub = Hub::new("https://mirror.example/hf/", Path::new("cache")).unwrap();
        let line = Line::new(&hub);
        let url = line.file(&Asked { repo: "org/name", revision: "refs/pr/1", file: "a b/ü#?.bin" });
        assert_eq!(url.as_str(), "https://mirror.example/hf/org/name/resolve/refs%2Fpr%2F1/a%20b/%C3%BC%23%3F.bin");
        assert!(line.is_hub(&url));
        for other in ["http://mirror.example/hf/", "https://mirror.example:444/", "https://mirror.example.evil/"] {
            assert!(!line.is_hub(&Url::parse(other).unwrap()), "{other}");
        }
        assert!(line.is_hub(&Url::parse("https://mirror.example:443/elsewhere").unwrap()));
    }
}
