// What the server is told on its command line.
#pragma once

#include <string>

namespace serve {

struct Options {
  std::string folder;  // of the model
  std::string name;    // of the model in answers; empty: the folder's name
  std::string host = "127.0.0.1";
  int port = 8080;  // 0: any free one
  std::string device = "cpu";
  std::string dtype = "auto";
  int threads = 0;     // of the CPU; 0: as many as sparlow takes by itself
  int slots = 8;       // requests computed together
  int context = 2048;  // tokens of prompt and answer, for each of them
  int queue = 64;      // requests that wait for a slot before others are refused
  int connections = 256;
  int body_bytes = 1 << 20;
  int header_seconds = 10;  // for a request's header, from the end of the one before
  int body_seconds = 30;
  int write_seconds = 30;  // for each piece of an answer
  int grace_seconds = 30;  // for requests in flight once the server was told to stop
};

// Throws std::invalid_argument with one sentence for what it does not understand.
Options parse_options(int count, const char* const* words);

std::string usage();

}  // namespace serve
