//! Failures of the device, each told to the call that caused it.

use mils_graph::BackendError;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;
use wgpu::ErrorFilter;

/// Innermost last. An error draws others after it (a buffer without memory is an invalid buffer), so that the kinds
/// that are causes are asked for first.
const FILTERS: [ErrorFilter; 3] = [ErrorFilter::Validation, ErrorFilter::Internal, ErrorFilter::OutOfMemory];

/// What is known of a device's failures.
pub(crate) struct Faults {
    /// How long is waited for it.
    pub(crate) patience: Duration,
    /// Why the device was lost. That is for good.
    lost: Arc<OnceLock<String>>,
    /// An error that came outside any scope; the next call answers with it, once.
    stray: Arc<Mutex<Option<BackendError>>>,
}

impl Faults {
    /// Hears of a device's failures.
    pub(crate) fn watch(device: &wgpu::Device, patience: Duration) -> Self {
        let faults = Self { patience, lost: Arc::default(), stray: Arc::default() };
        let (lost, stray) = (Arc::clone(&faults.lost), Arc::clone(&faults.stray));
        // Without a handler of ours, wgpu would panic.
        device.on_uncaptured_error(Arc::new(move |error: wgpu::Error| {
            let error = device_error(error, "working outside any call");
            stray.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
        }));
        device.set_device_lost_callback(move |reason, message| {
            let message = one_line(&message);
            // A second loss would be no news.
            let _ = lost.set(if message.is_empty() { format!("{reason:?}") } else { message });
        });
        faults
    }

    /// An error if the device was lost.
    fn alive(&self, during: &str) -> Result<(), BackendError> {
        self.lost
            .get()
            .map_or(Ok(()), |reason| Err(BackendError::Lost { during: during.to_owned(), reason: reason.clone() }))
    }

    /// Does `work`. What the device reports meanwhile on this thread is this call's error and nobody else's.
    pub(crate) fn scope<T>(
        &self,
        device: &wgpu::Device,
        during: &str,
        work: impl FnOnce() -> Result<T, BackendError>,
    ) -> Result<T, BackendError> {
        self.alive(during)?;
        let scopes = FILTERS.map(|filter| device.push_error_scope(filter));
        let result = work();
        // All of them are popped, in reverse order, before any is looked at.
        let reports: Vec<_> = scopes.into_iter().rev().map(|scope| pollster::block_on(scope.pop())).collect();
        let report = reports.into_iter().flatten().next().map(|error| device_error(error, during));
        let stray = self.stray.lock().unwrap_or_else(PoisonError::into_inner).take();
        if report.is_some() || result.is_err() {
            // A lost device draws errors of every kind after it; let the news arrive before they are believed.
            poll(device, wgpu::PollType::Poll);
        }
        self.alive(during)?;
        match report.or(stray) {
            Some(error) => Err(error),
            None => result,
        }
    }

    /// Waits until the device has done all that was submitted; one that takes too long counts as lost.
    pub(crate) fn wait(&self, device: &wgpu::Device, during: &str) -> Result<(), BackendError> {
        let wait = wgpu::PollType::Wait { submission_index: None, timeout: Some(self.patience) };
        let problem = poll(device, wait);
        if matches!(problem, Some(Trouble::Timeout)) {
            // Whatever it still does, its buffers are not ours to use: it is as good as lost.
            let _ = self.lost.set(format!("it gave no answer within {} seconds", self.patience.as_secs()));
        }
        self.alive(during)?;
        match problem {
            Some(Trouble::Other(problem)) => Err(BackendError::Device { during: during.to_owned(), problem }),
            _ => Ok(()),
        }
    }
}

/// What went wrong with a poll.
enum Trouble {
    /// What was submitted is not done yet.
    Timeout,
    /// In words.
    Other(String),
}

/// Polls, and says what went wrong.
fn poll(device: &wgpu::Device, kind: wgpu::PollType) -> Option<Trouble> {
    // wgpu panics where a device is lost while it is waited for, after its callback was called.
    match catch_unwind(AssertUnwindSafe(|| device.poll(kind))) {
        Ok(Ok(_)) => None,
        Ok(Err(wgpu::PollError::Timeout)) => Some(Trouble::Timeout),
        Ok(Err(error)) => Some(Trouble::Other(one_line(&error.to_string()))),
        Err(_) => Some(Trouble::Other("the driver failed while it was waited for".into())),
    }
}

/// One of wgpu's errors as one of ours.
fn device_error(error: wgpu::Error, during: &str) -> BackendError {
    let during = during.to_owned();
    match error {
        wgpu::Error::OutOfMemory { source } => {
            BackendError::OutOfMemory { during, problem: one_line(&source.to_string()) }
        }
        wgpu::Error::Validation { description, .. } => {
            BackendError::Rejected { during, problem: one_line(&description) }
        }
        wgpu::Error::Internal { description, .. } => BackendError::Device { during, problem: one_line(&description) },
    }
}

pub(crate) fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_of_failure_are_told_apart() {
        let source = || "a\n  b".into();
        let description = "c\n  d".to_owned();
        let error = device_error(wgpu::Error::OutOfMemory { source: source() }, "x");
        assert!(matches!(&error, BackendError::OutOfMemory { problem, .. } if problem == "a b"), "{error}");
        let error = device_error(wgpu::Error::Validation { source: source(), description: description.clone() }, "x");
        assert!(matches!(&error, BackendError::Rejected { problem, .. } if problem == "c d"), "{error}");
        let error = device_error(wgpu::Error::Internal { source: source(), description }, "x");
        assert!(matches!(&error, BackendError::Device { .. }) && error.to_string().contains("while x"), "{error}");
    }
}
