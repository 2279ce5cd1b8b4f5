//! The description in an XMP packet: dc:description, whose default is a text without a language. Only that is changed;
//! everything else stays as it was, to the byte. (XMP Specification Part 1, ISO 16684-1.)

use super::combine;
use crate::args::output::IfExists;
use anyhow::{Context, Result};
use quick_xml::escape::escape;
use roxmltree::{Document, Node};
use std::ops::Range;

const RDF: &str = "http://www.w3.org/1999/02/22-rdf-syntax-ns#";
const DC: &str = "http://purl.org/dc/elements/1.1/";
const XML: &str = "http://www.w3.org/XML/1998/namespace";

/// Where a packet is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Home {
    /// A file of its own.
    Sidecar,
    /// In a picture, where it has a mark at its beginning and end by which it is found.
    Picture,
}

/// A packet with a caption as its description; `None` where it has it, or something that stays.
///
/// # Errors
/// If what is there is no XMP.
pub(crate) fn describe(old: Option<&str>, caption: &str, how: IfExists, home: Home) -> Result<Option<String>> {
    let old = old.filter(|old| !old.trim().is_empty());
    let before = old.map(description).transpose()?.flatten();
    let Some(text) = combine(before.as_deref(), &allowed(caption), how) else { return Ok(None) };
    Ok(Some(match old {
        Some(old) => with(old, &text)?,
        None => new(&text, home),
    }))
}

/// The description of a packet: the default one, else the first.
///
/// # Errors
/// If it is no XMP.
pub(crate) fn description(xmp: &str) -> Result<Option<String>> {
    let document = parse(xmp)?;
    let packet = Packet::of(&document)?;
    let text = match packet.property() {
        Some(property) => match container(property) {
            Some(list) => default(list).or_else(|| items(list).next()).map(text),
            None => Some(text(property)),
        },
        None => packet.attribute().map(|(node, _)| node.attribute((DC, "description")).unwrap_or_default().to_owned()),
    };
    Ok(text.filter(|text| !text.trim().is_empty()))
}

fn parse(xmp: &str) -> Result<Document<'_>> {
    Document::parse(xmp).context("the XMP that is there is damaged")
}

/// What XML can hold.
fn allowed(text: &str) -> String {
    let good = |c: char| matches!(c, '\t' | '\n' | ' '..='\u{fffd}' | '\u{10000}'..);
    text.chars().map(|c| if good(c) { c } else { ' ' }).collect()
}

/// The part of a packet that says something.
struct Packet<'a, 'i> {
    rdf: Node<'a, 'i>,
}

impl<'a, 'i> Packet<'a, 'i> {
    fn of(document: &'a Document<'i>) -> Result<Self> {
        let rdf = document.descendants().find(|node| node.has_tag_name((RDF, "RDF")));
        Ok(Self { rdf: rdf.context("what is there is no XMP: it has no rdf:RDF")? })
    }

    /// Parts that have properties.
    fn parts(&self) -> impl Iterator<Item = Node<'a, 'i>> + use<'a, 'i> {
        self.rdf.children().filter(|node| node.has_tag_name((RDF, "Description")))
    }

    fn property(&self) -> Option<Node<'a, 'i>> {
        self.parts().flat_map(|part| part.children()).find(|node| node.has_tag_name((DC, "description")))
    }

    /// A property may be written as an attribute, though this one should not.
    fn attribute(&self) -> Option<(Node<'a, 'i>, Range<usize>)> {
        self.parts().find_map(|part| Some((part, part.attribute_node((DC, "description"))?.range())))
    }
}

/// Its texts in several languages.
fn container<'a, 'i>(property: Node<'a, 'i>) -> Option<Node<'a, 'i>> {
    let lists = ["Alt", "Bag", "Seq"];
    property.children().find(|node| lists.iter().any(|list| node.has_tag_name((RDF, *list))))
}

fn items<'a, 'i>(list: Node<'a, 'i>) -> impl Iterator<Item = Node<'a, 'i>> {
    list.children().filter(|node| node.has_tag_name((RDF, "li")))
}

fn default<'a, 'i>(list: Node<'a, 'i>) -> Option<Node<'a, 'i>> {
    items(list).find(|item| item.attribute((XML, "lang")).is_some_and(|lang| lang.eq_ignore_ascii_case("x-default")))
}

fn text(node: Node<'_, '_>) -> String {
    node.descendants().filter(Node::is_text).filter_map(|text| text.text()).collect::<String>().trim().to_owned()
}

/// The packet with this text as its description.
fn with(xmp: &str, text: &str) -> Result<String> {
    let document = parse(xmp)?;
    let packet = Packet::of(&document)?;
    let mut edits = Vec::new();
    if let Some(property) = packet.property() {
        edits.push(match container(property) {
            None => (property.range(), element(property.parent().unwrap_or(packet.rdf), text)),
            Some(list) => match default(list) {
                Some(item) => (item.range(), entry(list, text)),
                None => at_beginning(xmp, list, &entry(list, text)),
            },
        });
    } else {
        if let Some((_, range)) = packet.attribute() {
            edits.push((range, String::new()));
        }
        edits.push(match packet.parts().next() {
            Some(part) => at_end(xmp, part, &element(part, text)),
            None => {
                let (rdf, own) = prefix(packet.rdf, RDF, "rdf");
                let inner = element(packet.rdf, text);
                let part = format!("<{rdf}:Description {rdf}:about=\"\"{own}>{inner}</{rdf}:Description>");
                at_end(xmp, packet.rdf, &part)
            }
        });
    }
    // From the end, so that the others keep their places.
    edits.sort_by_key(|(range, _)| std::cmp::Reverse(range.start));
    let mut new = xmp.to_owned();
    for (range, with) in edits {
        new.replace_range(range, &with);
    }
    // Whoever wrote something that this does not understand is not left with a file that nobody does.
    anyhow::ensure!(description(&new)?.as_deref() == Some(text.trim()), "the XMP that is there cannot be changed");
    Ok(new)
}

/// The prefix of a namespace within an element, and its declaration where there is none.
fn prefix(within: Node<'_, '_>, namespace: &str, usual: &str) -> (String, String) {
    match within.lookup_prefix(namespace).filter(|prefix| !prefix.is_empty()) {
        Some(prefix) => (prefix.to_owned(), String::new()),
        None => (usual.to_owned(), format!(" xmlns:{usual}=\"{namespace}\"")),
    }
}

/// The property, to be put into an element.
fn element(within: Node<'_, '_>, text: &str) -> String {
    let ((dc, own), (rdf, other)) = (prefix(within, DC, "dc"), prefix(within, RDF, "rdf"));
    let item = format!("<{rdf}:li xml:lang=\"x-default\">{}</{rdf}:li>", escape(text));
    format!("<{dc}:description{own}{other}><{rdf}:Alt>{item}</{rdf}:Alt></{dc}:description>")
}

/// The default text, to be put into a list.
fn entry(within: Node<'_, '_>, text: &str) -> String {
    let (rdf, own) = prefix(within, RDF, "rdf");
    format!("<{rdf}:li{own} xml:lang=\"x-default\">{}</{rdf}:li>", escape(text))
}

type Edit = (Range<usize>, String);

fn at_beginning(xmp: &str, node: Node<'_, '_>, inner: &str) -> Edit {
    match node.first_child() {
        Some(first) => (first.range().start..first.range().start, inner.to_owned()),
        None => at_end(xmp, node, inner),
    }
}

fn at_end(xmp: &str, node: Node<'_, '_>, inner: &str) -> Edit {
    let Range { start, end } = node.range();
    let written = &xmp[start..end];
    if written.ends_with("/>") {
        let name = written[1..].split(|c: char| c.is_whitespace() || c == '/' || c == '>').next().unwrap_or_default();
        return (end - 2..end, format!(">{inner}</{name}>"));
    }
    let at = start + written.rfind("</").unwrap_or(written.len());
    (at..at, inner.to_owned())
}

/// A packet that says nothing else.
fn new(text: &str, home: Home) -> String {
    let (head, end) = match home {
        Home::Sidecar => ("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n", ""),
        Home::Picture => ("<?xpacket begin=\"\u{feff}\" id=\"W5M0MpCehiHzreSzNTczkc9d\"?>\n", "<?xpacket end=\"w\"?>"),
    };
    let (version, text) = (env!("CARGO_PKG_VERSION"), escape(text));
    format!(
        r#"{head}<x:xmpmeta xmlns:x="adobe:ns:meta/" x:xmptk="mils {version}">
 <rdf:RDF xmlns:rdf="{RDF}">
  <rdf:Description rdf:about="" xmlns:dc="{DC}">
   <dc:description>
    <rdf:Alt>
     <rdf:li xml:lang="x-default">{text}</rdf:li>
    </rdf:Alt>
   </dc:description>
  </rdf:Description>
 </rdf:RDF>
</x:xmpmeta>
{end}"#
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use IfExists::{Append, Overwrite, Prepend, Skip};

    const CAPTION: &str = "a <red> car & a \"blue\" one";

    fn wrap(inner: &str) -> String {
        format!(
            "<x:xmpmeta xmlns:x='adobe:ns:meta/'><rdf:RDF xmlns:rdf='{RDF}' xmlns:dc='{DC}' \
             xmlns:xmp='http://ns.adobe.com/xap/1.0/'>{inner}</rdf:RDF></x:xmpmeta>"
        )
    }

    fn overwrite(old: &str) -> String {
        let new = describe(Some(old), CAPTION, Overwrite, Home::Sidecar).unwrap().unwrap();
        assert_eq!(description(&new).unwrap().unwrap(), CAPTION, "{new}");
        new
    }

    #[test]
    fn a_new_packet_says_what_it_was_given() {
        for home in [Home::Sidecar, Home::Picture] {
            for old in [None, Some(""), Some(" \n")] {
                let new = describe(old, CAPTION, Skip, home).unwrap().unwrap();
                assert_eq!(description(&new).unwrap().unwrap(), CAPTION);
                assert_eq!(new.contains("<?xpacket end=\"w\"?>"), home == Home::Picture);
            }
        }
        let odd = describe(None, "bell\u{7} and\u{fffe} end", Skip, Home::Sidecar).unwrap().unwrap();
        assert_eq!(description(&odd).unwrap().unwrap(), "bell  and  end");
    }

    #[test]
    fn all_else_stays_to_the_byte() {
        let item = "<rdf:li xml:lang='x-default'>old</rdf:li>";
        let old = wrap(&format!(
            "\n<!-- by hand --><rdf:Description rdf:about='' xmp:Rating='5'><dc:title><rdf:Alt><rdf:li \
             xml:lang='x-default'>Title</rdf:li></rdf:Alt></dc:title><dc:description><rdf:Alt> {item}<rdf:li \
             xml:lang='de'>alt</rdf:li></rdf:Alt></dc:description></rdf:Description>\t"
        ));
        let new = overwrite(&old);
        let (before, after) = old.split_once(item).unwrap();
        assert!(new.starts_with(before) && new.ends_with(after), "{new}");
        assert_eq!(description(&old).unwrap().unwrap(), "old");
    }

    #[test]
    fn a_description_is_put_where_there_is_none() {
        let part = "<rdf:Description rdf:about='uuid:1' xmp:Rating='5'";
        for inner in [
            format!("{part}/>"),
            format!("{part}></rdf:Description>"),
            format!("{part}><xmp:Label>x</xmp:Label></rdf:Description><rdf:Description rdf:about='uuid:1'/>"),
            format!("{part}><dc:description/></rdf:Description>"),
            format!("{part}><dc:description>plain</dc:description></rdf:Description>"),
            format!("{part}><dc:description><rdf:Alt/></dc:description></rdf:Description>"),
            format!(
                "{part}><dc:description><rdf:Alt><rdf:li xml:lang='de'>x</rdf:li></rdf:Alt></dc:description></rdf:Description>"
            ),
            format!(
                "{part}><dc:description><rdf:Alt><rdf:li xml:lang='x-default'/></rdf:Alt></dc:description></rdf:Description>"
            ),
            format!("{part} dc:description='as an attribute'/>"),
        ] {
            let new = overwrite(&wrap(&inner));
            assert!(new.contains(part) && !new.contains("as an attribute"), "{new}");
            assert_eq!(new.contains("xml:lang='de'"), inner.contains("xml:lang='de'"));
        }
        assert!(overwrite(&wrap("")).contains("rdf:about=\"\""));
        // Other prefixes, and none at all.
        overwrite(&format!("<r:RDF xmlns:r='{RDF}'><r:Description r:about=''/></r:RDF>"));
        overwrite(&format!("<RDF xmlns='{RDF}'><Description/></RDF>"));
        overwrite(&format!("<RDF xmlns='{RDF}'/>"));
        overwrite(&format!("<?xpacket begin='\u{feff}' id='x'?>{}\n   \n<?xpacket end='w'?>", wrap("")));
        overwrite(&format!("\u{feff}<?xml version='1.0'?>{}", wrap("")));
    }

    #[test]
    fn what_is_there_is_kept_or_joined() {
        let old = describe(None, "one", Skip, Home::Sidecar).unwrap().unwrap();
        let with = |how, caption: &str| {
            let new = describe(Some(&old), caption, how, Home::Sidecar).unwrap();
            new.map(|new| description(&new).unwrap().unwrap())
        };
        assert_eq!(with(Skip, "two"), None);
        assert_eq!(with(Overwrite, "two").unwrap(), "two");
        assert_eq!(with(Append, "two").unwrap(), "one\ntwo");
        assert_eq!(with(Prepend, "two").unwrap(), "two\none");
        assert!([Overwrite, Append, Prepend].into_iter().all(|how| with(how, "one").is_none()));
    }

    #[test]
    fn what_is_no_xmp_is_an_error() {
        for odd in ["x", "<a/>", "<rdf:RDF/>", "{\"json\": 1}", "<?xml version='1.0'?>"] {
            assert!(describe(Some(odd), CAPTION, Overwrite, Home::Sidecar).is_err(), "{odd}");
        }
    }
}
