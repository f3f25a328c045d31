/** Markdown as elements. Only the lexer's tokens are used, and HTML in the text is shown as text: nothing needs to be
 * sanitized. */
import { marked, type Token, type Tokens } from "marked";
import { Fragment } from "preact";
import type { ComponentChildren } from "preact";

const LINK = /^(https?:|mailto:)/i;
/** Longer texts are shown as plain text: the lexer's time may grow faster than the text. */
const MOST_CHARACTERS = 400_000;

export function Markdown({ text }: { text: string }) {
  if (text.length > MOST_CHARACTERS) return <pre class="plain">{text}</pre>;
  return <>{blocks(marked.lexer(text))}</>;
}

function blocks(tokens: Token[]): ComponentChildren {
  return tokens.map((token, index) => <Fragment key={index}>{block(token)}</Fragment>);
}

function block(token: Token): ComponentChildren {
  switch (token.type) {
    case "space":
    case "def":
      return null;
    case "heading": // below the page's own headings
      return <p class={`heading h${(token as Tokens.Heading).depth}`}>{inlines(token.tokens)}</p>;
    case "paragraph":
      return <p>{inlines(token.tokens)}</p>;
    case "text":
      return <>{token.tokens ? inlines(token.tokens) : plain(token)}</>;
    case "code":
      return <CodeBlock text={(token as Tokens.Code).text} language={(token as Tokens.Code).lang ?? ""} />;
    case "blockquote":
      return <blockquote>{blocks(token.tokens ?? [])}</blockquote>;
    case "list":
      return <List list={token as Tokens.List} />;
    case "table":
      return <Table table={token as Tokens.Table} />;
    case "hr":
      return <hr />;
    default:
      return <p>{token.raw}</p>;
  }
}

function inlines(tokens: Token[] | undefined): ComponentChildren {
  return (tokens ?? []).map((token, index) => <Fragment key={index}>{inline(token)}</Fragment>);
}

function inline(token: Token): ComponentChildren {
  switch (token.type) {
    case "strong":
      return <strong>{inlines(token.tokens)}</strong>;
    case "em":
      return <em>{inlines(token.tokens)}</em>;
    case "del":
      return <del>{inlines(token.tokens)}</del>;
    case "codespan":
      return <code>{plain(token)}</code>;
    case "br":
      return <br />;
    case "link":
      return <Link link={token as Tokens.Link} />;
    case "escape":
      return <>{plain(token)}</>;
    case "text":
      return <>{"tokens" in token && token.tokens ? inlines(token.tokens) : plain(token)}</>;
    default: // HTML, and pictures, which would be fetched from other hosts
      return <>{token.raw}</>;
  }
}

/** The text of a token; the lexer leaves HTML entities as they were written. */
function plain(token: Token): string {
  return "text" in token && typeof token.text === "string" ? token.text : token.raw;
}

function Link({ link }: { link: Tokens.Link }) {
  if (!LINK.test(link.href)) return <>{link.raw}</>;
  return (
    <a href={link.href} target="_blank" rel="noopener noreferrer nofollow">
      {inlines(link.tokens)}
    </a>
  );
}

function List({ list }: { list: Tokens.List }) {
  const items = list.items.map((item, index) => (
    <li key={index}>
      {item.task && <input type="checkbox" checked={item.checked ?? false} disabled aria-label="done" />}
      {blocks(item.tokens.filter((token) => token.type !== "checkbox"))}
    </li>
  ));
  return list.ordered ? <ol start={Number(list.start) || 1}>{items}</ol> : <ul>{items}</ul>;
}

function Table({ table }: { table: Tokens.Table }) {
  return (
    <div class="scroll" tabIndex={0} role="region" aria-label="Table">
      <table>
        <thead>
          <tr>
            {table.header.map((cell, index) => (
              <th key={index}>{inlines(cell.tokens)}</th>
            ))}
          </tr>
        </thead>
        <tbody>
          {table.rows.map((row, index) => (
            <tr key={index}>
              {row.map((cell, column) => (
                <td key={column}>{inlines(cell.tokens)}</td>
              ))}
            </tr>
          ))}
        </tbody>
      </table>
    </div>
  );
}

function CodeBlock({ text, language }: { text: string; language: string }) {
  return (
    <div class="code">
      <div class="row">
        <small>{language.split(/\s/)[0]}</small>
        {navigator.clipboard && (
          <button class="link" onClick={() => void navigator.clipboard.writeText(text)}>
            Copy
          </button>
        )}
      </div>
      <pre tabIndex={0} role="region" aria-label={`Code${language && `, ${language}`}`}>
        <code>{text}</code>
      </pre>
    </div>
  );
}
