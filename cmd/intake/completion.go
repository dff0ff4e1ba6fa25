package main

import (
	"fmt"
	"strings"

	"github.com/alecthomas/kong"
)

// The libraries that complete for kong are years behind it, so this is one function
// for bash, made from the flags. zsh runs it, too.
type completionCommand struct {
	Shell string `arg:"" enum:"bash,zsh" help:"bash or zsh. For bash: source <(intake completion bash)."`
}

const completionScript = `_intake() {
  local word at="" words=""
  for word in "${COMP_WORDS[@]:1:COMP_CWORD-1}"; do
    case "$at $word" in
      %s) at="$at $word" ;;
    esac
  done
  case "$at" in
%s  esac
  COMPREPLY=($(compgen -W "$words" -- "${COMP_WORDS[COMP_CWORD]}"))
}
complete -o default -F _intake intake
`

// Run prints a script that completes commands and flags, and otherwise file names.
func (c completionCommand) Run(parsed *kong.Context, out output) error {
	if c.Shell == "zsh" {
		fmt.Fprintln(out, "autoload -U +X bashcompinit && bashcompinit")
	}
	var commands []string
	var cases strings.Builder
	var visit func(node *kong.Node, path string, flags []string)
	visit = func(node *kong.Node, path string, flags []string) {
		var words []string
		for _, flag := range node.Flags {
			if !flag.Hidden {
				flags = append(flags, "--"+flag.Name)
			}
		}
		for _, child := range node.Children {
			if child.Type == kong.CommandNode && !child.Hidden {
				words = append(words, child.Name)
				commands = append(commands, fmt.Sprintf("%q", path+" "+child.Name))
				visit(child, path+" "+child.Name, flags[:len(flags):len(flags)])
			}
		}
		fmt.Fprintf(&cases, "    %q) words=%q ;;\n", path, strings.Join(append(words, flags...), " "))
	}
	visit(parsed.Model.Node, "", nil)
	_, err := fmt.Fprintf(out, completionScript, strings.Join(commands, "|"), &cases)
	return err
}
