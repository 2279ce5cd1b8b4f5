//! What the `mils` command is made of: a [`session::Session`] holds the models of a pack and captions pictures,
//! videos and sounds, a [`model::Model`] is an encoder alone; the other modules are the commands, what they read, and what they show.
//!
//! The command line is the product; this library exists so that the benchmarks run the very same code. It is not a
//! stable interface.
//!
//! ```no_run
//! use mils_cli::backend::BackendChoice;
//! use mils_cli::media::Media;
//! use mils_cli::session::{Options, Session};
//! use std::ops::ControlFlow;
//!
//! let pack = mils_models::Pack::find("demo")?;
//! let mut session = Session::open(pack, &Options::default(), BackendChoice::Auto, &mut |_| {})?;
//! let image = mils_media::decode_image("photo.jpg".as_ref(), &Default::default())?;
//! let run = session.caption(&Media::Image(image), &mut |_| ControlFlow::Continue(()))?;
//! println!("{}", run.outcome.best.text);
//! # Ok::<(), anyhow::Error>(())
//! ```

pub mod args;
pub mod backend;
pub mod bank;
pub mod batch;
pub mod blend;
pub mod caption;
pub mod choose;
pub mod devices;
pub mod edit;
pub mod embed;
pub mod eval;
pub mod flight;
pub mod generate;
pub mod inputs;
pub mod interrupt;
pub mod kept;
pub mod log;
pub mod media;
pub mod memory;
pub mod metadata;
pub mod model;
pub mod models;
pub mod optimize;
pub mod output;
pub mod plot;
pub mod progress;
pub mod report;
pub mod rows;
pub mod score;
pub mod scorers;
pub mod session;
pub mod show;
mod single;
pub mod sources;
pub mod trace;
