//! The prompt: two Jinja templates and what they are filled with.
//!
//! The instructions belong before the list and the list at the end, so that everything but the list is a prefix that
//! a language model's KV cache keeps from step to step.

use crate::types::Labelled;
use minijinja::{Environment, UndefinedBehavior, context};

/// A template that cannot be read or filled.
#[derive(Debug, thiserror::Error)]
#[error("the {part} prompt template: {problem}")]
pub struct PromptError {
    part: &'static str,
    problem: String,
}

/// What is said to the language model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Messages {
    /// The system message; may be empty.
    pub system: String,
    /// The user message.
    pub user: String,
}

/// The two templates. Variables: `items`, a list of `{label, text, score}`, best last, and `count`, how many texts are
/// wanted in one answer; and `about`, which is the same in all requests (see [`PromptTemplate::about`]).
pub struct PromptTemplate {
    environment: Environment<'static>,
}

impl PromptTemplate {
    /// Compiles the templates.
    ///
    /// # Errors
    /// If one is not a valid template.
    pub fn new(system: &str, user: &str) -> Result<Self, PromptError> {
        let mut environment = Environment::new();
        environment.set_undefined_behavior(UndefinedBehavior::Strict);
        for (part, source) in [("system", system), ("user", user)] {
            environment
                .add_template_owned(part, source.to_owned())
                .map_err(|e| PromptError { part, problem: one_line(&e) })?;
        }
        environment.add_global("about", "");
        Ok(Self { environment })
    }

    /// What all requests are about, where that is a text: of a search for a better prompt, the prompt that it began with.
    #[must_use]
    pub fn about(mut self, text: &str) -> Self {
        self.environment.add_global("about", text);
        self
    }

    /// Fills the templates for one request. Outer white space is trimmed.
    ///
    /// # Errors
    /// If a template uses a variable that does not exist, or fails otherwise.
    pub fn render(&self, pool: &[Labelled], count: usize) -> Result<Messages, PromptError> {
        let items: Vec<_> =
            pool.iter().map(|c| context! { label => c.label, text => c.text.as_str(), score => c.score }).collect();
        let fill = |part: &'static str| {
            self.environment
                .get_template(part)
                .and_then(|t| t.render(context! { items => items.as_slice(), count => count }))
                .map(|text| text.trim().to_owned())
                .map_err(|e| PromptError { part, problem: one_line(&e) })
        };
        Ok(Messages { system: fill("system")?, user: fill("user")? })
    }
}

fn one_line(error: &minijinja::Error) -> String {
    error.to_string().lines().next().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fills_the_list_best_last() {
        let user = "Write {{ count }}.\n{% for item in items %}{{ item.label }} {{ item.text }}\n{% endfor %}";
        let template = PromptTemplate::new("You write.", user).unwrap();
        let item = |text: &str, label| Labelled { text: text.into(), score: 0.0, label };
        let messages = template.render(&[item("a cat", 0), item("a <dog>", 100)], 5).unwrap();
        assert_eq!(messages.user, "Write 5.\n0 a cat\n100 a <dog>");
        let template = PromptTemplate::new("On {{ about }}.", "{{ count }}").unwrap();
        let system = |template: &PromptTemplate| template.render(&[], 1).unwrap().system;
        assert_eq!(system(&template), "On .");
        assert_eq!(system(&template.about("{{ cats }}")), "On {{ cats }}.");
    }

    #[test]
    fn bad_templates_are_errors() {
        assert!(PromptTemplate::new("", "{% for %}").is_err());
        let unknown = PromptTemplate::new("", "{{ nothing }}").unwrap();
        assert!(unknown.render(&[], 1).unwrap_err().to_string().contains("user prompt template"));
    }
}
