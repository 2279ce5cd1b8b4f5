//! Either kind of generator.

use crate::endpoint::EndpointGenerator;
use crate::generator::LlamaGenerator;
use mils_optim::prompt::PromptTemplate;
use mils_optim::{BoxError, Generator, Proposals, Request};
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

/// A generator here or elsewhere.
pub enum AnyGenerator {
    /// On llama.cpp.
    Llama(LlamaGenerator),
    /// Behind an endpoint.
    Endpoint(EndpointGenerator),
}

impl AnyGenerator {
    /// Another handle to the same model, for another thread.
    #[must_use]
    pub fn another(&self) -> Self {
        match self {
            Self::Llama(generator) => Self::Llama(generator.another()),
            Self::Endpoint(generator) => Self::Endpoint(generator.another()),
        }
    }

    /// Asks in other words from now on; other handles go on with theirs.
    pub fn set_template(&mut self, template: Arc<PromptTemplate>) {
        match self {
            Self::Llama(generator) => generator.set_template(template),
            Self::Endpoint(generator) => generator.set_template(template),
        }
    }

    /// How long the model has been at work so far, whoever asked.
    pub fn busy(&self) -> Duration {
        match self {
            Self::Llama(generator) => generator.busy(),
            Self::Endpoint(generator) => generator.busy(),
        }
    }

    fn inner(&mut self) -> &mut dyn Generator {
        match self {
            Self::Llama(generator) => generator,
            Self::Endpoint(generator) => generator,
        }
    }
}

impl Generator for AnyGenerator {
    fn propose(&mut self, request: &Request<'_>) -> Result<Proposals, BoxError> {
        self.inner().propose(request)
    }

    fn stream(
        &mut self,
        request: &Request<'_>,
        take: &mut dyn FnMut(usize, Proposals) -> ControlFlow<()>,
    ) -> Result<(), BoxError> {
        self.inner().stream(request, take)
    }
}
