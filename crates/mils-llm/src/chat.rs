//! A model's own chat template, which is Jinja as Python has it.

use mils_optim::prompt::Messages;
use minijinja::syntax::SyntaxConfig;
use minijinja::{Environment, Error, ErrorKind, context};

/// Fills `template` (from the GGUF's `tokenizer.chat_template`) with a system and a user message, ready for the
/// answer. A template that refuses system messages gets both in one user message, as such models' cards advise.
pub(crate) fn render(template: &str, messages: &Messages, bos: &str, eos: &str) -> Result<String, String> {
    let Messages { system, user } = messages;
    let pair = |role: &str, content: &str| context! { role => role, content => content };
    let mut attempts = Vec::new();
    if system.is_empty() {
        attempts.push(vec![pair("user", user)]);
    } else {
        attempts.push(vec![pair("system", system), pair("user", user)]);
        attempts.push(vec![pair("user", &format!("{system}\n\n{user}"))]);
    }
    let mut environment = Environment::new();
    environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
    // As transformers sets them.
    let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build().map_err(|e| e.to_string())?;
    environment.set_syntax(syntax);
    environment.add_function("raise_exception", |message: String| -> Result<String, Error> {
        Err(Error::new(ErrorKind::InvalidOperation, message))
    });
    // Some templates print the date; a fixed one keeps the prompt, and so the run, the same tomorrow.
    environment.add_function("strftime_now", |_: String| "01 Jan 2025".to_owned());
    let template = environment.template_from_str(template).map_err(|e| e.to_string())?;
    let mut problem = String::new();
    for messages in attempts {
        let values = context! {
            messages => messages,
            add_generation_prompt => true,
            enable_thinking => false,
            bos_token => bos,
            eos_token => eos,
        };
        match template.render(values) {
            Ok(text) => return Ok(text),
            Err(e) => problem = e.to_string(),
        }
    }
    Err(problem)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn messages() -> Messages {
        Messages { system: "Be brief.".into(), user: "Hello.".into() }
    }

    #[test]
    fn chatml() {
        let template = "{% for m in messages %}{{'<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' + '\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";
        let text = render(template, &messages(), "", "").unwrap();
        assert_eq!(
            text,
            "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHello.<|im_end|>\n<|im_start|>assistant\n"
        );
    }

    #[test]
    fn templates_without_a_system_role_get_one_message() {
        let template = "{% if messages[0].role == 'system' %}{{ raise_exception('no system role') }}{% endif %}{{ bos_token }}{% for m in messages %}[{{ m.content.strip() }}]{% endfor %}";
        assert_eq!(render(template, &messages(), "<s>", "").unwrap(), "<s>[Be brief.\n\nHello.]");
        assert!(render("{% bad", &messages(), "", "").is_err());
    }
}
