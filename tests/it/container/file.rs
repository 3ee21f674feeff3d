//! The Containerfile, read. What is not known here is refused, so that nothing is passed over.

/// One stage: what it begins with, its name for others, and what is done in it.
pub struct Stage {
    pub base: String,
    pub name: Option<String>,
    pub steps: Vec<Step>,
}

#[derive(Debug, PartialEq)]
pub enum Step {
    Workdir(String),
    Copy(Copy),
    Arg { name: String, usual: Option<String> },
    Run(String),
    User(String),
    Expose(u16),
    Entrypoint(Vec<String>),
    Cmd(Vec<String>),
}

#[derive(Debug, PartialEq)]
pub struct Copy {
    /// The stage whose files these are; the directory of the source if none.
    pub from: Option<String>,
    pub owner: Option<String>,
    pub sources: Vec<String>,
    pub to: String,
}

/// The stages of a Containerfile, or what is wrong with which line.
pub fn stages(text: &str) -> Result<Vec<Stage>, String> {
    let mut stages: Vec<Stage> = Vec::new();
    for (number, line) in (1..).zip(text.lines()) {
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let wrong = |what: &str| format!("line {number}: {what}: {line}");
        if line.ends_with('\\') {
            return Err(wrong("lines that go on are not known here"));
        }
        let (word, rest) = line.split_once(' ').ok_or_else(|| wrong("an instruction alone"))?;
        if word == "FROM" {
            stages.push(stage(rest).ok_or_else(|| wrong("not IMAGE [AS NAME]"))?);
            continue;
        }
        let step = step(word, rest).ok_or_else(|| wrong("not known here"))?;
        stages.last_mut().ok_or_else(|| wrong("stands before FROM"))?.steps.push(step);
    }
    Ok(stages)
}

fn stage(rest: &str) -> Option<Stage> {
    let (base, name) = match rest.split(' ').collect::<Vec<_>>()[..] {
        [base] => (base, None),
        [base, "AS", name] => (base, Some(name.to_owned())),
        _ => return None,
    };
    Some(Stage { base: base.to_owned(), name, steps: Vec::new() })
}

fn step(word: &str, rest: &str) -> Option<Step> {
    let owned = rest.to_owned();
    Some(match word {
        "WORKDIR" if rest.starts_with('/') => Step::Workdir(owned),
        "COPY" => Step::Copy(copy(rest)?),
        "ARG" => match rest.split_once('=') {
            Some((name, usual)) => Step::Arg { name: name.into(), usual: Some(usual.into()) },
            None => Step::Arg { name: owned, usual: None },
        },
        "RUN" if !rest.starts_with(['[', '-']) => Step::Run(owned),
        "USER" => Step::User(owned),
        "EXPOSE" => Step::Expose(rest.parse().ok()?),
        "ENTRYPOINT" => Step::Entrypoint(serde_json::from_str(rest).ok()?),
        "CMD" => Step::Cmd(serde_json::from_str(rest).ok()?),
        _ => return None,
    })
}

fn copy(rest: &str) -> Option<Copy> {
    let mut copy = Copy { from: None, owner: None, sources: Vec::new(), to: String::new() };
    for word in rest.split(' ') {
        match word.strip_prefix("--").map(|flag| flag.split_once('=')) {
            Some(Some(("from", stage))) => copy.from = Some(stage.to_owned()),
            Some(Some(("chown", owner))) => copy.owner = Some(owner.to_owned()),
            None if !word.contains(['*', '?', '[', '$', '"']) => copy.sources.push(word.to_owned()),
            _ => return None,
        }
    }
    copy.to = copy.sources.pop()?;
    let is_plain = !copy.sources.is_empty() && (copy.sources.len() == 1 || copy.to.ends_with('/'));
    is_plain.then_some(copy)
}
