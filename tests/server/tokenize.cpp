// tokenize FILE: a JSON list of texts on standard input, a list of {"ids", "text"} on standard output; the text is what
// the ids decode to.
#include <cstdio>
#include <iostream>

#include "server/errors.hpp"
#include "server/text_stream.hpp"
#include "server/tokenizer.hpp"

int main(int count, char** words) {
  if (count != 2) return 2;
  try {
    const serve::Tokenizer tokenizer(words[1]);
    serve::Json answers = serve::Json::array();
    for (const serve::Json& text : serve::Json::parse(std::cin)) {
      const std::vector<int> ids = tokenizer.encode(text.get_ref<const std::string&>());
      serve::TextStream stream({});
      std::string decoded;
      for (const int id : ids) decoded += stream.push(tokenizer.bytes(id));
      answers.push_back({{"ids", ids}, {"text", decoded + stream.finish()}});
    }
    std::cout << answers.dump();
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
  return 0;
}
